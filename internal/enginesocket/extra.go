package enginesocket

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

// Extra is what containers and builds get beyond what their user asked for.
type Extra struct {
	// Env are variables, NAME=value, for containers. One that is set already, in
	// upper or lower case, is left out.
	Env []string
	// BuildArgs are the same for the steps of builds: arguments that BuildKit and
	// the classic builder know without a declaration in the Dockerfile.
	BuildArgs []string
	// Binds are mounts for containers as in `docker run -v`: SOURCE:TARGET:ro. One
	// whose target is mounted already is left out.
	Binds []string
	// Sysctls are kernel parameters of network namespaces, for containers that get
	// one of their own. One that is set already is left out.
	Sysctls map[string]string
}

func (e Extra) ofContainers() bool { return len(e.Env)+len(e.Binds)+len(e.Sysctls) > 0 }

func name(variable string) string {
	n, _, _ := strings.Cut(variable, "=")
	return n
}

// missing are those variables that nobody has set, in either case.
func missing(variables []string, set ...[]string) []string {
	taken := slices.Concat(set...)
	return slices.DeleteFunc(slices.Clone(variables), func(v string) bool {
		return slices.ContainsFunc(taken, func(t string) bool { return strings.EqualFold(name(t), name(v)) })
	})
}

// object is a JSON object whose other members stay as they are.
type object map[string]json.RawMessage

// get decodes a member into v, and returns the name under which it stands: the
// engine does not care for case. Without one, v stays as it is. ok is false when
// it is there twice, or something else than v.
func (o object) get(want string, v any) (key string, ok bool) {
	key = want
	found := 0
	for k := range o {
		if strings.EqualFold(k, want) {
			key, found = k, found+1
		}
	}
	if found == 0 {
		return key, true
	}
	return key, found == 1 && json.Unmarshal(o[key], v) == nil
}

// set encodes a member. What is added is made of strings and lists.
func (o object) set(key string, v any) {
	if text, err := json.Marshal(v); err == nil {
		o[key] = text
	}
}

// imageOf is the image that a body of POST /containers/create names.
func imageOf(body []byte) string {
	var o object
	var image string
	if json.Unmarshal(body, &o) != nil {
		return ""
	}
	_, _ = o.get("Image", &image) // no string is no image
	return image
}

// addToContainer adds what is missing to the body of POST /containers/create.
// What it does not understand is left as it is, for the engine to judge.
func addToContainer(body []byte, extra Extra, imageEnv []string) []byte {
	var o object
	if json.Unmarshal(body, &o) != nil || o == nil {
		return body
	}
	var env []string
	envKey, ok := o.get("Env", &env)
	if !ok {
		return body
	}
	if add := missing(extra.Env, env, imageEnv); len(add) > 0 {
		o.set(envKey, append(env, add...))
	}
	var host object
	if hostKey, ok := o.get("HostConfig", &host); ok {
		if host == nil {
			host = object{}
		}
		bound, tuned := addBinds(host, extra.Binds), addSysctls(host, extra.Sysctls)
		if bound || tuned {
			o.set(hostKey, host)
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if enc.Encode(o) != nil {
		return body
	}
	return out.Bytes()
}

// addBinds adds mounts to a HostConfig, and reports whether it did.
func addBinds(host object, binds []string) bool {
	var have []string
	key, ok := host.get("Binds", &have)
	if !ok {
		return false
	}
	var mounts []struct{ Target string }
	if _, ok := host.get("Mounts", &mounts); !ok {
		return false
	}
	var targets []string
	for _, m := range mounts {
		targets = append(targets, m.Target)
	}
	for _, b := range have {
		targets = append(targets, target(b))
	}
	add := slices.DeleteFunc(slices.Clone(binds), func(b string) bool { return slices.Contains(targets, target(b)) })
	if len(add) > 0 {
		host.set(key, append(have, add...))
	}
	return len(add) > 0
}

// addSysctls adds kernel parameters to a HostConfig, and reports whether it did.
// The engine refuses them for containers that use somebody else's network.
func addSysctls(host object, sysctls map[string]string) bool {
	var mode string
	if _, ok := host.get("NetworkMode", &mode); !ok || mode == "host" || mode == "none" || strings.HasPrefix(mode, "container:") {
		return false
	}
	have := map[string]string{}
	key, ok := host.get("Sysctls", &have)
	if !ok {
		return false
	}
	if have == nil {
		have = map[string]string{}
	}
	before := len(have)
	for name, value := range sysctls {
		if _, set := have[name]; !set {
			have[name] = value
		}
	}
	if len(have) > before {
		host.set(key, have)
	}
	return len(have) > before
}

// target is the second part of SOURCE:TARGET:options.
func target(bind string) string {
	parts := strings.SplitN(bind, ":", 3)
	if len(parts) < 2 {
		return ""
	}
	return parts[1]
}

// addToBuild adds what is missing to the target of POST /build, whose query has
// buildargs as a JSON object of strings and nulls.
func addToBuild(target string, args []string) string {
	path, query, _ := strings.Cut(target, "?")
	values, err := url.ParseQuery(query)
	if err != nil || len(values["buildargs"]) > 1 {
		return target
	}
	given := map[string]*string{}
	if text := values.Get("buildargs"); text != "" && json.Unmarshal([]byte(text), &given) != nil {
		return target
	}
	if given == nil {
		given = map[string]*string{}
	}
	var set []string
	for n := range given {
		set = append(set, n)
	}
	for _, arg := range missing(args, set) {
		n, value, _ := strings.Cut(arg, "=")
		given[n] = &value
	}
	text, err := json.Marshal(given)
	if err != nil {
		return target
	}
	values.Set("buildargs", string(text))
	return path + "?" + values.Encode()
}
