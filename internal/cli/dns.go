package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
)

const dnsQueryHelp = `Asks as a container does, and says who knew the answer: Portolan itself, this
host's hosts file, the cache, or which of this host's resolvers, and which line
of which file says so; and with which search domain a short name was completed.
Records that are hidden from containers are shown, with the setting that hides
them and, where it is automatic, what this host lacks.

TYPE is A unless given: AAAA, MX, TXT, HTTPS, or TYPE and a number. The exit
code is 0 when there is an answer, be it that the name does not exist.`

func (g *global) dnsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dns", Short: "See how containers' names are resolved", Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "query NAME [TYPE]",
		Short: "Show how a name is answered, and by whom",
		Long:  dnsQueryHelp,
		Example: `  portolan dns query wiki.corp.example
  portolan dns query example.com AAAA
  portolan dns query host.docker.internal --json | jq -r .source`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usagef("want a name and perhaps a type, such as: portolan dns query example.com AAAA")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			qtype := "A"
			if len(args) == 2 {
				qtype = strings.ToUpper(args[1])
			}
			answer, err := g.client().QueryDNS(cmd.Context(), args[0], qtype)
			if err != nil {
				return err
			}
			if g.json {
				return g.printJSON(answer)
			}
			printAnswer(g.Out, answer)
			if answer.Error != "" {
				return fmt.Errorf("query %s %s: %s", args[0], qtype, answer.Error)
			}
			return nil
		},
	})
	return cmd
}

// printAnswer writes an answer for people.
func printAnswer(w io.Writer, a api.DNSAnswer) {
	fmt.Fprintf(w, "%s %s: %s, %s\n", a.Name, a.Type, a.Rcode, origin(a))
	if a.Completed != "" {
		fmt.Fprintf(w, "  completed to %s, with a search domain of /etc/resolv.conf\n", a.Completed)
	}
	for _, rr := range a.Records {
		fmt.Fprintf(w, "  %s\n", rr)
	}
	for _, rr := range a.Hidden {
		fmt.Fprintf(w, "  hidden: %s\n", rr)
	}
	for _, reason := range a.HiddenBecause {
		fmt.Fprintf(w, "  hidden because %s\n", reason)
	}
	if a.Rcode == "NOERROR" && len(a.Records)+len(a.Hidden) == 0 {
		fmt.Fprintf(w, "  the name exists, but has no record of this type\n")
	}
}

// origin says who knew an answer.
func origin(a api.DNSAnswer) string {
	switch a.Source {
	case "portolan":
		if a.Rcode == "NXDOMAIN" {
			return "a name that Portolan gives to this host, not to containers"
		}
		return "a name that Portolan gives"
	case "hosts":
		return "from this host's " + place(a)
	case "cache":
		return fmt.Sprintf("from the cache: resolver %s (%s) gave it %s ago, and it is kept for %s more",
			a.Server, place(a), a.Age.Round(time.Second), a.Left.Round(time.Second))
	case "resolver":
		return fmt.Sprintf("from resolver %s (%s) after %s", a.Server, place(a), a.Took.Round(100*time.Microsecond))
	}
	var servers []string
	for _, s := range a.Servers {
		servers = append(servers, s.String())
	}
	if len(servers) == 0 {
		return "this host's /etc/resolv.conf names no resolver"
	}
	return "none of this host's resolvers answers: " + strings.Join(servers, ", ")
}

// place is the file and its lines, as in "/etc/hosts, line 3".
func place(a api.DNSAnswer) string {
	if a.File == "" {
		return "which no file names now"
	}
	word, numbers := "line", []string{}
	for _, line := range a.Lines {
		numbers = append(numbers, strconv.Itoa(line))
	}
	if len(numbers) > 1 {
		word = "lines"
	}
	return fmt.Sprintf("%s, %s %s", a.File, word, strings.Join(numbers, ", "))
}
