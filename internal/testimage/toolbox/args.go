//go:build linux

package main

import (
	"flag"
	"fmt"
	"os"
)

// parse reads flags and positional arguments in any order and returns the
// latter, of which there must be least to most. Wrong usage ends the program.
func parse(flags *flag.FlagSet, args []string, least, most int) []string {
	flags.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: toolbox", flags.Name(), "... (toolbox alone lists all)")
		flags.PrintDefaults()
	}
	var positional []string
	for {
		_ = flags.Parse(args) // flag.ExitOnError
		if args = flags.Args(); len(args) == 0 {
			break
		}
		positional = append(positional, args[0])
		args = args[1:]
	}
	if len(positional) < least || len(positional) > most {
		flags.Usage()
		os.Exit(2) //nolint:forbidigo // as flag.ExitOnError does
	}
	return positional
}

func newFlags(name string) *flag.FlagSet { return flag.NewFlagSet(name, flag.ExitOnError) }
