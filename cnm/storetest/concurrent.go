package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
)

// patience is how long a wake-up that must come may take.
const patience = 10 * time.Second

// woken waits for a wake-up.
func woken(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case _, ok := <-ch:
		if !ok {
			t.Fatal("the channel was closed before its context was done")
		}
	case <-time.After(patience):
		t.Fatal("no wake-up")
	}
}

// quiet checks that no wake-up is due: a store wakes before Commit returns.
func quiet(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
		t.Error("a wake-up without a change")
	default:
	}
}

func testWatch(t *testing.T, s cnm.Store) {
	endpoints := s.Watch(t.Context(), cnm.KindEndpoint)
	sandboxes := s.Watch(t.Context(), cnm.KindSandbox)
	quiet(t, endpoints)
	r := create(t, s, key("a"), "one")
	woken(t, endpoints)
	quiet(t, sandboxes)
	if err := s.Commit(t.Context(), cnm.Write{Key: key("a"), Value: []byte("two"), Revision: r.Revision},
		cnm.Write{Key: cnm.Key{Kind: cnm.KindSandbox, ID: "s"}, Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	woken(t, endpoints)
	woken(t, sandboxes)
	conflict(t, s.Commit(t.Context(), cnm.Write{Key: key("a"), Revision: r.Revision}))
	quiet(t, endpoints)
	if err := s.Commit(t.Context(), cnm.Write{Key: key("a"), Revision: get(t, s, key("a")).Revision}); err != nil {
		t.Fatal(err)
	}
	woken(t, endpoints)
	absent(t, s, key("a"))
}

func testWatchCoalesces(t *testing.T, s cnm.Store) {
	ch := s.Watch(t.Context(), cnm.KindEndpoint)
	for _, id := range ids(50) { // nobody reads: commits must not block
		create(t, s, key(id), "x")
	}
	woken(t, ch)
	if n := len(list(t, s, cnm.KindEndpoint)); n != 50 {
		t.Errorf("%d records are visible after the wake-up, want 50", n)
	}
	select {
	case <-ch:
	default:
	}
	quiet(t, ch)
}

func testWatchCloses(t *testing.T, s cnm.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	gone, stays := s.Watch(ctx, cnm.KindEndpoint), s.Watch(t.Context(), cnm.KindEndpoint)
	cancel()
	deadline := time.After(patience)
	for open := true; open; {
		select {
		case _, open = <-gone:
		case <-deadline:
			t.Fatal("the channel is not closed with its context")
		}
	}
	create(t, s, key("a"), "one")
	woken(t, stays)
	late := s.Watch(ctx, cnm.KindEndpoint)
	for range late {
		t.Error("a wake-up on a channel whose context was done")
	}
}

// testConcurrent lets many goroutines add to one counter by
// compare-and-swap: none of them may be lost.
func testConcurrent(t *testing.T, s cnm.Store) {
	const workers, rounds = 8, 25
	create(t, s, key("counter"), "0")
	errs := make(chan error, workers)
	for range workers {
		go func() { errs <- count(t.Context(), s, rounds) }()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if r := get(t, s, key("counter")); string(r.Value) != strconv.Itoa(workers*rounds) {
		t.Errorf("the counter is at %s, want %d", r.Value, workers*rounds)
	}
}

func count(ctx context.Context, s cnm.Store, rounds int) error {
	for done := 0; done < rounds; {
		r, err := s.Get(ctx, key("counter"))
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(r.Value))
		if err != nil {
			return err
		}
		err = s.Commit(ctx, cnm.Write{Key: r.Key, Value: []byte(strconv.Itoa(n + 1)), Revision: r.Revision})
		switch {
		case err == nil:
			done++
		case !errors.Is(err, cnm.ErrConflict):
			return err
		}
	}
	return nil
}

// testTransfers moves units between records while a reader checks that List
// never sees half a commit.
func testTransfers(t *testing.T, s cnm.Store) {
	const accounts, workers, rounds = 4, 4, 50
	for i := range accounts {
		create(t, s, key(strconv.Itoa(i)), "100")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var reader, writers sync.WaitGroup
	var readErr error
	reader.Go(func() { readErr = watchSum(ctx, s, accounts*100) })
	errs := make([]error, workers)
	for w := range workers {
		writers.Go(func() { errs[w] = transfer(ctx, s, w, rounds, accounts) })
	}
	writers.Wait()
	cancel()
	reader.Wait()
	if err := errors.Join(append(errs, readErr)...); err != nil {
		t.Error(err)
	}
}

func transfer(ctx context.Context, s cnm.Store, worker, rounds, accounts int) error {
	for i := range rounds {
		from, to := (worker+i)%accounts, (worker+i+1+i%(accounts-1))%accounts
		if from == to {
			continue
		}
		for {
			err := move(ctx, s, strconv.Itoa(from), strconv.Itoa(to))
			if err == nil {
				break
			}
			if !errors.Is(err, cnm.ErrConflict) {
				return err
			}
		}
	}
	return nil
}

func move(ctx context.Context, s cnm.Store, from, to string) error {
	var writes []cnm.Write
	for id, delta := range map[string]int{from: -1, to: 1} {
		r, err := s.Get(ctx, key(id))
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(r.Value))
		if err != nil {
			return err
		}
		writes = append(writes, cnm.Write{Key: r.Key, Value: []byte(strconv.Itoa(n + delta)), Revision: r.Revision})
	}
	return s.Commit(ctx, writes...)
}

func watchSum(ctx context.Context, s cnm.Store, want int) error {
	for ctx.Err() == nil {
		rs, err := s.List(ctx, cnm.KindEndpoint)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		sum := 0
		for _, r := range rs {
			n, err := strconv.Atoi(string(r.Value))
			if err != nil {
				return err
			}
			sum += n
		}
		if sum != want {
			return fmt.Errorf("a list holds %d units, want %d: it shows half a commit", sum, want)
		}
	}
	return nil
}
