"""Where trio meets the world: sockets, threads, files, keys and the clock."""
