package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

func TestAttachCarriesEverything(t *testing.T) {
	s := serve(t)
	id := s.create(t, "cat")
	stream := s.attach(t, &apiv1.AttachOptions{Container: id, Start: true, Stdin: true})
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB: many times every buffer
	go func() {
		for part := range slicesOf(big, 32<<10) {
			if stream.Send(&apiv1.AttachRequest{Message: &apiv1.AttachRequest_Stdin{Stdin: part}}) != nil {
				return
			}
		}
		_ = stream.Send(&apiv1.AttachRequest{Message: &apiv1.AttachRequest_CloseStdin{CloseStdin: true}})
	}()
	var out []byte
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m.GetStdout()...)
		if e := m.GetExit(); e != nil {
			if e.Code != 0 {
				t.Fatalf("exit %v", e)
			}
			break
		}
	}
	if !bytes.Equal(out, big) {
		t.Fatalf("%d bytes came back, want the %d that were sent", len(out), len(big))
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("after the exit status: %v, want the end", err)
	}
}

func slicesOf(b []byte, n int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 && yield(b[:min(n, len(b))]) {
			b = b[min(n, len(b)):]
		}
	}
}

func (s *setup) create(t *testing.T, command ...string) string {
	t.Helper()
	r, err := s.Containers.Create(t.Context(),
		&apiv1.CreateContainerRequest{Spec: &apiv1.ContainerSpec{Image: "busybox", Command: command}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Id
}

func (s *setup) attach(t *testing.T, o *apiv1.AttachOptions) apiv1.Containers_AttachClient {
	t.Helper()
	stream, err := s.Containers.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&apiv1.AttachRequest{Message: &apiv1.AttachRequest_Options{Options: o}}); err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestAttachResizesAndSignals(t *testing.T) {
	s := serve(t)
	stream := s.attach(t, &apiv1.AttachOptions{Container: s.create(t, "size"), Start: true,
		Size: &apiv1.WindowSize{Rows: 24, Columns: 80}})
	next := func() *apiv1.AttachResponse {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := next(); m.GetStarted().GetPid() != 4242 {
		t.Fatalf("first message %v, want Started", m)
	}
	if m := next(); string(m.GetStdout()) != "80x24\n" {
		t.Fatalf("got %v", m)
	}
	if err := stream.Send(&apiv1.AttachRequest{Message: &apiv1.AttachRequest_Resize{Resize: &apiv1.WindowSize{Rows: 50,
		Columns: 1 << 20}}}); err != nil {
		t.Fatal(err)
	}
	if m := next(); string(m.GetStdout()) != "65535x50\n" {
		t.Fatalf("got %v", m)
	}
	if err := stream.Send(&apiv1.AttachRequest{Message: &apiv1.AttachRequest_Signal{Signal: "INT"}}); err != nil {
		t.Fatal(err)
	}
	if m := next(); m.GetExit().GetCode() != 130 {
		t.Fatalf("got %v, want exit 130", m)
	}
}

func TestAClientThatHangsUpLeavesTheProcessAlone(t *testing.T) {
	s := serve(t)
	id := s.create(t, "cat")
	ctx, cancel := context.WithCancel(t.Context())
	first, err := s.Containers.Attach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Send(&apiv1.AttachRequest{Message: &apiv1.AttachRequest_Options{
		Options: &apiv1.AttachOptions{Container: id, Start: true, Stdin: true}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	second := s.attach(t, &apiv1.AttachOptions{Container: id, Stdin: true})
	for _, m := range []*apiv1.AttachRequest{
		{Message: &apiv1.AttachRequest_Stdin{Stdin: []byte("still here")}},
		{Message: &apiv1.AttachRequest_CloseStdin{CloseStdin: true}},
	} {
		if err := second.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	var out string
	for {
		m, err := second.Recv()
		if err != nil {
			t.Fatal(err)
		}
		out += string(m.GetStdout())
		if m.GetExit() != nil {
			break
		}
	}
	if out != "still here" {
		t.Fatalf("got %q", out)
	}
}
