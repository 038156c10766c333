"""How a daemon is put together: settings, drivers, the broker, the features, the sockets."""
