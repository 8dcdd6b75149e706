package keeper

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/resolver/control"
)

// lookupTime bounds a lookup. The resolver itself gives servers elsewhere less.
const lookupTime = 15 * time.Second

// watchPause is before questions are watched again.
const watchPause = 100 * time.Millisecond

// Lookup says what a server would answer, and why.
func (k *Keeper) Lookup(ctx context.Context, q control.Lookup) (control.Explanation, error) {
	conn, stop, err := k.aside(ctx)
	if err != nil {
		return control.Explanation{}, err
	}
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(lookupTime)); err != nil {
		return control.Explanation{}, err
	}
	var a control.Answer
	if err := conn.Send(control.Request{Lookup: &q}); err != nil {
		return control.Explanation{}, fmt.Errorf("ask net-resolver: %w", err)
	}
	all, err := conn.Receive(&a)
	descriptor.Close(all)
	switch {
	case err != nil:
		return control.Explanation{}, fmt.Errorf("ask net-resolver: %w", err)
	case a.Error != "":
		return control.Explanation{}, &refusal{a.Error}
	case a.Explain == nil:
		return control.Explanation{}, errors.New("ask net-resolver: its answer is to another question")
	}
	return *a.Explain, nil
}

// Watch yields the questions to servers with these keys, to all without any, as they are answered, until the context
// ends. When the resolver ends, it goes on with the next one.
func (k *Keeper) Watch(ctx context.Context, servers []string) iter.Seq2[control.Query, error] {
	return func(yield func(control.Query, error) bool) {
		for ctx.Err() == nil {
			again, err := k.watchOnce(ctx, servers, yield)
			if !again {
				return
			}
			if ctx.Err() == nil && err != nil && k.Trouble() != nil {
				yield(control.Query{}, err)
				return
			}
			select { // it may end each time
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
	}
}

// watchOnce yields questions until the resolver ends: then it says so, and that it is worth to ask the next one.
func (k *Keeper) watchOnce(ctx context.Context, servers []string, yield func(control.Query, error) bool) (again bool,
	err error) {
	conn, stop, err := k.aside(ctx)
	if err != nil {
		yield(control.Query{}, err)
		return false, err
	}
	defer stop()
	if err := conn.Send(control.Request{Watch: &control.Watch{Servers: servers}}); err != nil {
		return true, err
	}
	for {
		var a control.Answer
		all, err := conn.Receive(&a)
		descriptor.Close(all)
		if err != nil {
			return true, err
		}
		if a.Query != nil && !yield(*a.Query, nil) {
			return false, nil
		}
	}
}

// aside is a further connection, for as long as the context.
func (k *Keeper) aside(ctx context.Context) (*descriptor.Conn, func(), error) {
	if err := k.Trouble(); err != nil {
		return nil, nil, err
	}
	conn, _, err := k.dial()
	if err != nil {
		return nil, nil, fmt.Errorf("reach net-resolver: %w", err)
	}
	undo := context.AfterFunc(ctx, func() { conn.Close() })
	return conn, func() {
		undo()
		conn.Close()
	}, nil
}
