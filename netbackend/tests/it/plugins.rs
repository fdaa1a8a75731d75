//! Drivers of somebody else: small programs that are called as netavark calls them.
