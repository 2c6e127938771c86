package enginesocket

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/http/httpproxy"

	"github.com/portolan-net/portolan/internal/portolan"
)

func TestAddToContainer(t *testing.T) {
	extra := Extra{Env: []string{"HTTP_PROXY=p", "http_proxy=p", "NO_PROXY=n"}, Binds: []string{"/ca:/in/ca:ro"}}
	for name, c := range map[string]struct {
		body     string
		imageEnv []string
		want     string
	}{
		"nothing set":        {`{"Image":"i"}`, nil, `{"Image":"i","Env":["HTTP_PROXY=p","http_proxy=p","NO_PROXY=n"],"HostConfig":{"Binds":["/ca:/in/ca:ro"]}}`},
		"the other case":     {`{"Env":["A=<b>","http_proxy=mine"],"HostConfig":{"NanoCpus":9007199254740993}}`, nil, `{"Env":["A=<b>","http_proxy=mine","NO_PROXY=n"],"HostConfig":{"NanoCpus":9007199254740993,"Binds":["/ca:/in/ca:ro"]}}`},
		"unset on purpose":   {`{"Env":["HTTP_PROXY","no_proxy="],"HostConfig":{"Binds":["/mine:/in/ca"]}}`, nil, `{"Env":["HTTP_PROXY","no_proxy="],"HostConfig":{"Binds":["/mine:/in/ca"]}}`},
		"the image's":        {`{"env":null,"HostConfig":{"Mounts":[{"Target":"/in/ca"}]}}`, []string{"Http_Proxy=i", "NO_PROXY="}, `{"env":null,"HostConfig":{"Mounts":[{"Target":"/in/ca"}]}}`},
		"keys in small case": {`{"env":["X=y"],"hostconfig":{"binds":[]}}`, nil, `{"env":["X=y","HTTP_PROXY=p","http_proxy=p","NO_PROXY=n"],"hostconfig":{"binds":["/ca:/in/ca:ro"]}}`},
	} {
		var got, want any
		out := addToContainer([]byte(c.body), extra, c.imageEnv)
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) || strings.Contains(c.body, "9007199254740993") && !strings.Contains(string(out), "9007199254740993") {
			t.Errorf("%s: %s, want %s", name, out, c.want)
		}
	}
	for _, odd := range []string{"", "[]", "null", "{", `{"Env":"A=b"}`, `{"Env":[],"env":[]}`} {
		if got := addToContainer([]byte(odd), extra, nil); string(got) != odd {
			t.Errorf("%q becomes %q", odd, got)
		}
	}
}

func TestAddSysctls(t *testing.T) {
	extra := Extra{Sysctls: map[string]string{"net.a": "1"}}
	for body, want := range map[string]string{
		`{}`: `{"HostConfig":{"Sysctls":{"net.a":"1"}}}`,
		`{"HostConfig":{"NetworkMode":"mine","Sysctls":{"net.b":"2"}}}`: `{"HostConfig":{"NetworkMode":"mine","Sysctls":{"net.a":"1","net.b":"2"}}}`,
		`{"HostConfig":{"sysctls":{"net.a":"2"}}}`:                      `{"HostConfig":{"sysctls":{"net.a":"2"}}}`,
		`{"HostConfig":{"Sysctls":null}}`:                               `{"HostConfig":{"Sysctls":{"net.a":"1"}}}`,
		`{"HostConfig":{"NetworkMode":"host"}}`:                         `{"HostConfig":{"NetworkMode":"host"}}`,
		`{"HostConfig":{"NetworkMode":"none"}}`:                         `{"HostConfig":{"NetworkMode":"none"}}`,
		`{"HostConfig":{"NetworkMode":"container:x"}}`:                  `{"HostConfig":{"NetworkMode":"container:x"}}`,
		`{"HostConfig":{"Sysctls":[]}}`:                                 `{"HostConfig":{"Sysctls":[]}}`,
	} {
		if got := string(addToContainer([]byte(body), extra, nil)); strings.TrimSpace(got) != want {
			t.Errorf("%s becomes %s, want %s", body, got, want)
		}
	}
}

func TestAddToBuild(t *testing.T) {
	got := addToBuild(`/v1.51/build?t=a%26b&buildargs=%7B%22no_proxy%22%3Anull%7D`, []string{"HTTP_PROXY=p", "NO_PROXY=n"})
	u, err := url.Parse(got)
	if err != nil || u.Path != "/v1.51/build" || u.Query().Get("t") != "a&b" || u.Query().Get("buildargs") != `{"HTTP_PROXY":"p","no_proxy":null}` {
		t.Errorf("%s, %v", got, err)
	}
	if got := addToBuild("/build", []string{"A=b"}); got != "/build?buildargs=%7B%22A%22%3A%22b%22%7D" {
		t.Error(got)
	}
	for _, odd := range []string{"/build?buildargs=x", "/build?buildargs={}&buildargs={}", "/build?%zz"} {
		if got := addToBuild(odd, []string{"A=b"}); got != odd {
			t.Errorf("%s becomes %s", odd, got)
		}
	}
}

func framed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func option(key, value string) string {
	return string(appendField(appendField(nil, 1, key), 2, value))
}

func TestAddToMessage(t *testing.T) {
	fields := solveFields{frontend: 2, options: 3}
	message := appendField([]byte{5<<3 | varint, 1}, 2, "dockerfile.v0")
	message = appendField(message, 3, option("build-arg:No_Proxy", "mine"))
	want := framed(appendField(append([]byte{}, message...), 3, option("build-arg:HTTP_PROXY", "p")))
	if got := addToMessage(framed(message), fields, []string{"HTTP_PROXY=p", "NO_PROXY=n"}); string(got) != string(want) {
		t.Errorf("%q, want %q", got, want)
	}
	compressed := framed(message)
	compressed[0] = 1
	for name, odd := range map[string][]byte{
		"no frontend": framed(appendField(nil, 3, option("a", "b"))), "cut off": framed(message)[:9], "compressed": compressed,
		"no message": framed([]byte{2<<3 | bytesN, 9}), "empty": nil,
	} {
		if got := addToMessage(odd, fields, []string{"A=b"}); string(got) != string(odd) {
			t.Errorf("%s: %q becomes %q", name, odd, got)
		}
	}
}

func FuzzAddToMessage(f *testing.F) {
	f.Add(framed(appendField(nil, 2, "gateway.v0")))
	f.Fuzz(func(t *testing.T, message []byte) {
		got := addToMessage(message, solveFields{frontend: 2, options: 3}, []string{"A=b"})
		if string(got) != string(message) && !strings.HasPrefix(string(got[grpcPrefix:]), string(message[grpcPrefix:])) {
			t.Errorf("%q becomes %q", message, got)
		}
	})
}

// Go's own reading of NO_PROXY; curl's and Python's are tested in containers.
func TestNoProxy(t *testing.T) {
	list := NoProxy([]string{"*.corp.test", ".lab.test", "plain.test", "10.1.0.0/16", "x.test:8080", "we?ird", "a,b", "localhost"},
		[]netip.Prefix{netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd00:1::/64")}, []string{"db", "172.17.0.9", "fd00:1::9", "[fd00:1::9]"})
	if strings.ContainsAny(list, "*? ") || strings.Count(list, "localhost") != 1 {
		t.Error(list)
	}
	way := (&httpproxy.Config{HTTPProxy: portolan.ForwardProxy, NoProxy: list}).ProxyFunc()
	for target, direct := range map[string]bool{
		"a.corp.test": true, "a.lab.test": true, "plain.test": true, "10.1.2.3": true, "x.test:8080": true, "x.test": false,
		"localhost": true, "127.0.0.9": true, "[::1]:80": true, "169.254.1.1": true, "[fe80::1]": true, "172.17.0.2": true, "[fd00:1::2]": true, "172.17.0.9:80": true, "[fd00:1::9]:80": true,
		"db:5432": true, "host.docker.internal": true, "web.internet.test": false, "198.51.100.1": false,
	} {
		proxy, err := way(&url.URL{Scheme: "http", Host: target})
		if err != nil || (proxy == nil) != direct {
			t.Errorf("%s goes by %v (%v), want direct: %v", target, proxy, err, direct)
		}
	}
}
