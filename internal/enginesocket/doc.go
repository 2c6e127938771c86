// Package enginesocket stands between a docker client and the engine's socket.
// It carries everything as it is, and adds to what is about to be created: proxy
// variables to containers and builds, and what else an [Extra] holds. It listens
// nowhere, and knows neither settings nor proxies; package daemon does.
//
// # Theory of operation
//
// A client's connection gets a connection to the engine. The client's direction
// is read request by request, for the heads alone: a head is parsed strictly,
// the body that it announces is walked past in the buffer that carries it, and
// both go on as they came. The engine's direction is copied without a look at
// it. A head that two readers could understand differently (see parseHead) ends
// the connection with status 400, so that no request hides in another's body.
//
//	request                               what happens
//	POST /containers/create               JSON body: Env and HostConfig.Binds get what is missing
//	POST /build                           query: buildargs gets what is missing
//	has Upgrade, or POST .../attach,      answer decides: switched means bytes both ways from then on;
//	POST /exec/ID/start                   refused means that the next request follows
//	POST /grpc with Upgrade: h2c,         HTTP/2 is spoken with both sides, if there is something to add;
//	or HTTP/2 from the first byte         the two Solve calls of BuildKit get build arguments
//	POST /swarm/init, /swarm/join         waits until the engine is ready for it; as it is
//	POST /containers/.../start, restart   waits until what the container may need is there; as it is
//	all else                              head and body as they are
//
// To know which bytes answer a request that may switch, it is sent on a fresh
// connection to the engine; the former one has been closed for writing, and what
// was still to come on it has been delivered.
//
// The sessions through which BuildKit reads files are upgrades too (POST
// /session): bytes, whatever is added.
//
// What the user said wins: a variable that the request, its build arguments or
// the container's image sets in either case is not added in any.
package enginesocket
