"""gRPC servicers: convert, authorize, call.  Nothing is decided or stored here."""
