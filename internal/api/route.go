package api

// Routes is the answer to GET /v1/route: how a destination is reached.
type Routes struct {
	Host   string  `json:"host"`
	Port   uint16  `json:"port"`
	Routes []Route `json:"routes"` // the engine's, unless a container was named, and the containers'
}

// Route is the way for one of the two. It holds no credentials.
type Route struct {
	For       string   `json:"for"` // engine, containers
	Container string   `json:"container,omitempty"`
	Ways      []string `json:"ways"`   // in the order in which they are tried: direct, blocked, or the proxy's URL
	Source    string   `json:"source"` // what decided
	Rule      string   `json:"rule"`   // the entry or line that did
	Error     string   `json:"error,omitempty"`

	Configured bool     `json:"configured"` // whether there is any other way than the direct one
	Exclusions []string `json:"exclusions,omitempty"`
	// Transparent: the port goes this way without the client knowing; otherwise
	// clients have to use http.docker.internal:3128.
	Transparent bool `json:"transparent,omitempty"`
}
