"""labd turns a Linux host into a training lab of real QEMU machines on real networks."""

__version__ = "0.1.0"
