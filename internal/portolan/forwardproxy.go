package portolan

// ForwardProxy is the proxy that machine and containers know. It is always there,
// whatever the host's own proxies are: without any, it goes the direct way.
const ForwardProxy = "http://http.docker.internal:3128"
