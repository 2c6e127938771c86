//go:build linux

// Command toolbox is what end-to-end tests run inside containers, and in the
// lab's namespaces: small network clients and servers whose outcome is one line
// of JSON, a testimage.Result. A command that did what it should exits with 0,
// with another outcome with 1; wrong usage is 2. For tests only.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// A command is given its arguments, fills in what it found and returns what
// went wrong. The error decides the outcome unless the command did.
type command struct {
	usage string
	run   func(ctx context.Context, args []string, r *testimage.Result) error
}

var commands = map[string]command{
	"web":           {"[-addr :80] [-name NAME]: HTTP server: /, /ip, /bytes/N, POST /sha256", web},
	"echo-tcp":      {"[-addr :7] [-mode echo|after-eof|rst|whoami|silent]: a line for each connection that ended", echoTCP},
	"echo-udp":      {"[-addr :7] [-mode echo|train|whoami|silent]: a line for each new client", echoUDP},
	"dns":           {"ADDR [-addr :53]: DNS server over UDP and TCP that knows one IPv4 address", serveDNS},
	"get":           {"URL [-timeout 10s]: HTTP request", get},
	"dial":          {"tcp|udp ADDR [-from ADDR] [-send N] [-expect-echo] [-timeout 10s]", dial},
	"udp-send":      {"ADDR [-size 100] [-timeout 5s] [-from ADDR]: one datagram, whose echo must come back whole", udpSend},
	"udp-train":     {"ADDR [-count 40] [-size 1400] [-timeout 5s]: datagrams sent as one message, whose echoes must come in order", udpTrain},
	"ping":          {"IP [-count 1] [-size 56] [-ttl N] [-raw] [-timeout 5s]: ICMP echo", ping},
	"lookup":        {"NAME [TYPE] [-server IP[:PORT]] [-tcp] [-bufsize 1232] [-timeout 10s]: without TYPE as programs do", lookup},
	"stream-send":   {"ADDR [-bytes N] [-listen] [-timeout 10m]: sends, then waits for the receiver's digest", streamSend},
	"stream-recv":   {"ADDR [-listen] [-timeout 10m]: receives until FIN, then sends the digest back", streamRecv},
	"half-close":    {"ADDR [-send 16] [-timeout 10s]: FIN first, then expects the echo and FIN", halfClose},
	"listen-many":   {"[-first 10000] [-count 1000]: waits on TCP ports in a row, until SIGTERM", listenMany},
	"hold":          {"ADDR [-count 1] [-timeout 10s]: keeps connections, echoes on each, and counts how they end", hold},
	"rst":           {"ADDR [-send 1] [-timeout 10s]: connects, sends, waits for the echo, resets", rst},
	"forge-udp":     {"-src IP -dst ADDR [-sport N] [-payload TEXT] [-count 1]: a datagram with a source of your choice", forgeUDP},
	"forge-link":    {"-claim IP,IP,... [-iface eth0]: ARP, NDP, router advertisement and DHCP lies about addresses of others", forgeLink},
	"scan":          {"IP [-first 1] [-last 65535] [-parallel 64] [-timeout 10s]: the TCP ports that do not refuse", scan},
	"scan-udp":      {"IP -fence ADDR [-timeout 20s]: the UDP ports that answer; the fence is an echo server", scanUDP},
	"exchange":      {"ADDR [-count 1] [-bytes N] [-timeout 10m]: streams that both sides end when they like, each digest checked", exchangeAll},
	"connect-times": {"ADDR [-count 100] [-every 10ms] [-timeout 10s]: how long connects take", connectTimes},
	"churn":         {"ADDR [-workers 16] [-once]: connects and resets as fast as it can, until SIGTERM", churn},
	"flood-syn":     {"IPV4:PORT [-from NETWORK] [-rate 50000]: SYNs with forged sources, until SIGTERM", floodSYN},
	"ssh-keys":      {"SOCKET [-timeout 10s]: how many keys an ssh-agent has, and the digest of its answer", sshKeys},
	"del-link":      {"NAME [-behind eth0]: deletes an interface in the namespace of that one's peer", delLink},
	"ifaces":        {": interfaces and addresses", ifaces},
	"sleep":         {"DURATION: until then or SIGTERM", sleep},
	"true":          {": nothing", nothing},
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	cmd, ok := commands[os.Args[1]]
	if !ok {
		usage()
	}
	//nolint:forbidigo // this is main
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	result := testimage.Result{Command: os.Args[1]}
	start := time.Now()
	err := cmd.run(ctx, os.Args[2:], &result)
	result.Elapsed = time.Since(start).Milliseconds()
	conclude(&result, err)
	emit(result)
	if result.Outcome != testimage.OK && result.Outcome != testimage.Connected {
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// emit writes one line to the standard output.
func emit(r testimage.Result) {
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: toolbox COMMAND ...")
	for _, name := range slices.Sorted(maps.Keys(commands)) {
		fmt.Fprintln(os.Stderr, " ", name, commands[name].usage)
	}
	os.Exit(2) //nolint:forbidigo // this is main
}
