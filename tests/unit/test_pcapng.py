"""pcapng byte for byte, as draft-ietf-opsawg-pcapng has it."""

from __future__ import annotations

from labd.drivers.network.linux import pcapng


def test_a_file_begins_with_a_section_of_unknown_length() -> None:
    assert pcapng.header("labd").hex(" ", 4) == (
        "0a0d0d0a 28000000 4d3c2b1a 01000000 ffffffff ffffffff 04000400 6c616264 00000000 28000000"
    )


def test_an_interface_has_a_name_and_counts_nanoseconds() -> None:
    assert pcapng.interface("br-lan", "w/lan", "tcp").hex(" ", 4) == (
        "01000000 40000000 01000000 00000400"  # Ethernet, 256 KiB
        " 02000600 62722d6c 616e0000"  # if_name
        " 03000500 772f6c61 6e000000"  # if_description
        " 09000100 09000000"  # if_tsresol: 10^-9
        " 0b000400 00746370"  # if_filter
        " 00000000 40000000"
    )


def test_a_packet_is_padded_and_says_which_way_it_went() -> None:
    time = (1 << 32) + 2
    assert pcapng.packet(time, b"abcde", 1500, outbound=False).hex(" ", 4) == (
        "06000000 34000000 00000000 01000000 02000000 05000000 dc050000"
        " 61626364 65000000"
        " 02000400 01000000 00000000 34000000"
    )
    assert b"\x02\0\x04\0\x02\0\0\0" in pcapng.packet(1, b"abcd", 4, outbound=True)


def test_the_end_tells_what_was_dropped() -> None:
    assert pcapng.statistics(1, 2, 10, 3).hex(" ", 4) == (
        "05000000 4c000000 00000000 00000000 02000000"
        " 02000800 00000000 01000000"
        " 03000800 00000000 02000000"
        " 04000800 0a000000 00000000"
        " 05000800 03000000 00000000"
        " 00000000 4c000000"
    )
