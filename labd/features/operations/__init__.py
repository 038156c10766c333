"""Operations as the API shows them."""
