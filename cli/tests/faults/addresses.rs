//! Addresses on real interfaces: network namespaces, several listen addresses, interfaces that come and go.
