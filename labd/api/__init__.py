"""HTTP and WebSocket: who calls, what they may do, problems. It has no route of its own."""
