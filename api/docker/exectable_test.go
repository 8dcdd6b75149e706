package docker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/cnm"
)

// What is known of commands has a bound, and an end; one that runs is never forgotten.
func TestCommandsAreForgotten(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	table := newExecTable()
	table.now = func() time.Time { return now }
	add := func(bytes int) *execution {
		t.Helper()
		now = now.Add(time.Millisecond)
		id, err := table.add("c", container.ExecCreateRequest{Cmd: []string{strings.Repeat("x", bytes)}})
		if err != nil {
			t.Fatal(err)
		}
		return table.all[id]
	}
	knows := func(e *execution) bool {
		_, err := table.find(e.id)
		return err == nil
	}
	waiting, running, ended := add(1), add(1), add(1)
	for _, e := range []*execution{running, ended} {
		if err := table.begin(e); err != nil {
			t.Fatal(err)
		}
	}
	table.ends(ended, 3)
	now = now.Add(execKept + time.Second)
	if knows(ended) || !knows(waiting) || !knows(running) {
		t.Errorf("after %s: ended %v, waiting %v, running %v", execKept, knows(ended), knows(waiting), knows(running))
	}
	now = now.Add(execPatience)
	if knows(waiting) || !knows(running) {
		t.Errorf("after %s: waiting %v, running %v", execPatience, knows(waiting), knows(running))
	}
	first := add(1)
	for range maxExecs {
		add(1)
	}
	if knows(first) || !knows(running) || len(table.all) > maxExecs {
		t.Errorf("%d commands are known; the first %v, the one that runs %v", len(table.all), knows(first),
			knows(running))
	}
	for range 2 * maxExecBytes >> 20 {
		add(1 << 20)
	}
	if table.bytes > maxExecBytes || !knows(running) {
		t.Errorf("%d bytes are held; the one that runs %v", table.bytes, knows(running))
	}
	sum := 0
	for _, e := range table.all {
		sum += e.bytes
	}
	if sum != table.bytes {
		t.Errorf("%d bytes are counted, and %d held", table.bytes, sum)
	}
	huge := container.ExecCreateRequest{Cmd: []string{strings.Repeat("x", maxExecBytes)}}
	if _, err := table.add("c", huge); !errors.Is(err, cnm.ErrExhausted) {
		t.Errorf("a command of %d bytes: %v", maxExecBytes, err)
	}
	if ids := table.of("c"); len(ids) != 1 || ids[0] != running.id {
		t.Errorf("%v run, want %s", ids, running.id)
	}
}
