package hostservice

import (
	"errors"
	"testing"
)

func TestLoops(t *testing.T) {
	forward := func(from Side, listen, to string) Forward {
		l, err := ParseEndpoint("tcp:" + listen)
		if err != nil {
			t.Fatal(err)
		}
		target, err := ParseEndpoint("tcp:" + to)
		if err != nil {
			t.Fatal(err)
		}
		return Forward{from, l, target}
	}
	list := []Forward{
		forward(Machine, "127.0.0.1:1", "127.0.0.1:2"),
		forward(Host, "127.0.0.1:3", "0.0.0.0:1"),
		forward(Machine, "127.0.0.1:9", "127.0.0.1:9"),
	}
	for _, c := range []struct {
		f    Forward
		loop bool
	}{
		{forward(Host, "127.0.0.1:2", "127.0.0.1:1"), true},
		{forward(Host, "127.0.0.1:2", "[::]:1"), true},
		{forward(Machine, "127.0.0.1:4", "127.0.0.1:3"), false},
		{forward(Host, "127.0.0.1:2", "127.0.0.1:4"), false},
		{forward(Host, "127.0.0.1:5", "127.0.0.1:1"), false},
		{forward(Host, "127.0.0.1:8", "127.0.0.1:9"), false},
	} {
		if err := checkLoop(list, c.f); errors.Is(err, ErrLoop) != c.loop {
			t.Errorf("%v: %v, want a loop: %v", c.f, err, c.loop)
		}
	}
	long := append(list, forward(Machine, "127.0.0.1:4", "127.0.0.1:3"))
	if err := checkLoop(long, forward(Host, "127.0.0.1:2", "127.0.0.1:4")); !errors.Is(err, ErrLoop) {
		t.Errorf("a loop of four forwards: %v", err)
	}
}

func TestTableRefusesLoops(t *testing.T) {
	far := &machine{}
	table := newTable(t, t.TempDir(), far)
	there := Endpoint{"tcp", "127.0.0.1:7000"}
	if err := table.Add(t.Context(), t.Context(), Forward{Machine, there, there}); err != nil {
		t.Fatal(err)
	}
	if err := table.Add(t.Context(), t.Context(), Forward{Host, there, there}); !errors.Is(err, ErrLoop) {
		t.Errorf("a loop is added: %v", err)
	}
	if list, _ := table.List(); len(list) != 1 {
		t.Errorf("listed: %v", list)
	}
}
