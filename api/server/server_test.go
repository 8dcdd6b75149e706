package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vethloom/vethloom/api/client"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/api/server/fake"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup is a served fake domain and a client.
type setup struct {
	*client.Client
	domain *fake.Domain
	log    *syncBuffer
	reg    *prometheus.Registry
	path   string
	stop   func() error // stops the server and returns what Serve did
}

func serve(t *testing.T) *setup {
	t.Helper()
	s := &setup{domain: fake.New(), log: &syncBuffer{}, reg: prometheus.NewRegistry(),
		path: filepath.Join(t.TempDir(), "netd.sock")}
	t.Cleanup(s.domain.Close)
	s.stop = s.start(t)
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	c, err := client.Dial(t.Context(), "unix://"+s.path, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Client = c
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *setup) start(t *testing.T) func() error {
	t.Helper()
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	srv, err := server.New(server.Config{
		Networks: s.domain, Nodes: s.domain, Leases: s.domain, Names: s.domain,
		Sandboxes: s.domain, Containers: s.domain,
		Images: s.domain, Volumes: s.domain, System: s.domain,
		Log: log, Metrics: s.reg, Grace: 2 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := server.Listen(t.Context(), s.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-done
	})
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestErrorsHaveTheirCodes(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		err    error
		code   codes.Code
		reason string
		exit   string
	}{
		{cnm.ErrNotFound, codes.NotFound, "NOT_FOUND", ""},
		{cnm.ErrExists, codes.AlreadyExists, "EXISTS", ""},
		{cnm.ErrInUse, codes.FailedPrecondition, "IN_USE", ""},
		{cnm.ErrInvalid, codes.InvalidArgument, "INVALID", ""},
		{cnm.ErrForbidden, codes.FailedPrecondition, "FORBIDDEN", ""},
		{cnm.ErrExhausted, codes.ResourceExhausted, "EXHAUSTED", ""},
		{cnm.ErrConflict, codes.Aborted, "CONFLICT", ""},
		{&cnm.PortTakenError{Proto: "tcp", Port: 80}, codes.FailedPrecondition, "PORT_TAKEN", ""},
		{&fake.CommandError{Command: "x", Code: 127}, codes.FailedPrecondition, "COMMAND", "127"},
		{&fake.CommandError{Command: "x", Code: 126}, codes.FailedPrecondition, "COMMAND", "126"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE", ""},
		{errors.ErrUnsupported, codes.Unimplemented, "UNSUPPORTED", ""},
		{syscall.ENOSPC, codes.Unknown, "FAILED", ""},
	} {
		t.Run(c.reason+c.exit, func(t *testing.T) {
			wrapped := fmt.Errorf("do the thing: %w", c.err)
			s.domain.Fail("CreateNetwork", wrapped)
			_, err := s.Networks.Create(t.Context(), &apiv1.CreateNetworkRequest{Name: "x"})
			st := status.Convert(err)
			if st.Code() != c.code || st.Message() != wrapped.Error() {
				t.Fatalf("got %v %q, want %v %q", st.Code(), st.Message(), c.code, wrapped)
			}
			info, ok := st.Details()[0].(*errdetails.ErrorInfo)
			if !ok || info.Reason != c.reason || info.Domain != server.ErrorDomain ||
				info.Metadata[server.ExitCodeKey] != c.exit {
				t.Fatalf("details %v, want reason %s and exit code %q", st.Details(), c.reason, c.exit)
			}
		})
	}
}

func TestEveryMethodReportsTheDomainsError(t *testing.T) {
	s := serve(t)
	ctx := t.Context()
	for method, call := range map[string]func() error{
		"CreateNetwork": func() error { _, err := s.Networks.Create(ctx, &apiv1.CreateNetworkRequest{}); return err },
		"ListNetworks":  func() error { _, err := s.Networks.List(ctx, &apiv1.ListNetworksRequest{}); return err },
		"InspectNetwork": func() error {
			_,
				err := s.Networks.Inspect(ctx, &apiv1.InspectNetworkRequest{})
			return err
		},
		"RemoveNetwork": func() error { _, err := s.Networks.Remove(ctx, &apiv1.RemoveNetworkRequest{}); return err },
		"Connect":       func() error { _, err := s.Networks.Connect(ctx, &apiv1.ConnectRequest{}); return err },
		"LeaveNetwork":  func() error { _, err := s.Networks.Leave(ctx, &apiv1.LeaveNetworkRequest{}); return err },
		"JoinNetwork":   func() error { _, err := s.Networks.Join(ctx, &apiv1.JoinNetworkRequest{}); return err },
		"Disconnect":    func() error { _, err := s.Networks.Disconnect(ctx, &apiv1.DisconnectRequest{}); return err },
		"CreateSandbox": func() error { _, err := s.Sandboxes.Create(ctx, &apiv1.CreateSandboxRequest{}); return err },
		"RemoveSandbox": func() error { _, err := s.Sandboxes.Remove(ctx, &apiv1.RemoveSandboxRequest{}); return err },
		"ListSandboxes": func() error { _, err := s.Sandboxes.List(ctx, &apiv1.ListSandboxesRequest{}); return err },
		"Create": func() error {
			_,
				err := s.Containers.Create(ctx, &apiv1.CreateContainerRequest{})
			return err
		},
		"Start": func() error {
			_,
				err := s.Containers.Start(ctx, &apiv1.StartContainerRequest{})
			return err
		},
		"Stop": func() error { _, err := s.Containers.Stop(ctx, &apiv1.StopContainerRequest{}); return err },
		"Kill": func() error { _, err := s.Containers.Kill(ctx, &apiv1.KillContainerRequest{}); return err },
		"Remove": func() error {
			_,
				err := s.Containers.Remove(ctx, &apiv1.RemoveContainerRequest{})
			return err
		},
		"Wait": func() error { _, err := s.Containers.Wait(ctx, &apiv1.WaitContainerRequest{}); return err },
		"List": func() error { _, err := s.Containers.List(ctx, &apiv1.ListContainersRequest{}); return err },
		"Inspect": func() error {
			_,
				err := s.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{})
			return err
		},
		"ChangePorts": func() error {
			_,
				err := s.Containers.ChangePorts(ctx, &apiv1.ChangePortsRequest{})
			return err
		},
		"ListImages":    func() error { _, err := s.Images.List(ctx, &apiv1.ListImagesRequest{}); return err },
		"InspectImage":  func() error { _, err := s.Images.Inspect(ctx, &apiv1.InspectImageRequest{}); return err },
		"RemoveImage":   func() error { _, err := s.Images.Remove(ctx, &apiv1.RemoveImageRequest{}); return err },
		"TagImage":      func() error { _, err := s.Images.Tag(ctx, &apiv1.TagImageRequest{}); return err },
		"CreateVolume":  func() error { _, err := s.Volumes.Create(ctx, &apiv1.CreateVolumeRequest{}); return err },
		"ListVolumes":   func() error { _, err := s.Volumes.List(ctx, &apiv1.ListVolumesRequest{}); return err },
		"InspectVolume": func() error { _, err := s.Volumes.Inspect(ctx, &apiv1.InspectVolumeRequest{}); return err },
		"RemoveVolume":  func() error { _, err := s.Volumes.Remove(ctx, &apiv1.RemoveVolumeRequest{}); return err },
		"PruneVolumes":  func() error { _, err := s.Volumes.Prune(ctx, &apiv1.PruneVolumesRequest{}); return err },
		"Status":        func() error { _, err := s.System.Status(ctx, &apiv1.StatusRequest{}); return err },
		"Diff":          func() error { _, err := s.System.Diff(ctx, &apiv1.DiffRequest{}); return err },
		"Doctor":        func() error { _, err := s.System.Doctor(ctx, &apiv1.DoctorRequest{}); return err },
		"ImageHistory":  func() error { _, err := s.Images.History(ctx, &apiv1.ImageHistoryRequest{}); return err },
		"PruneImages":   func() error { _, err := s.Images.Prune(ctx, &apiv1.PruneImagesRequest{}); return err },
		"RegistryHosts": func() error { _, err := s.Images.Hosts(ctx, &apiv1.RegistryHostsRequest{}); return err },
		"LoginRegistry": func() error { _, err := s.Images.Login(ctx, &apiv1.LoginRequest{}); return err },
		"DiskUsage":     func() error { _, err := s.System.DiskUsage(ctx, &apiv1.DiskUsageRequest{}); return err },
		"Commit": func() error {
			_,
				err := s.Containers.Commit(ctx, &apiv1.CommitContainerRequest{})
			return err
		},
		"PullImage": func() error { return first(s.Images.Pull(ctx, &apiv1.PullRequest{})) },
		"PushImage": func() error { return first(s.Images.Push(ctx, &apiv1.PushRequest{})) },
		"SaveImages": func() error {
			return first(s.Images.Save(ctx, &apiv1.SaveRequest{Images: []string{"x"}}))
		},
		"CheckImages": func() error { return first(s.Images.Check(ctx, &apiv1.CheckImagesRequest{})) },
		"Changes": func() error {
			return first(s.Containers.Changes(ctx, &apiv1.ContainerChangesRequest{}))
		},
		"Export": func() error { return first(s.Containers.Export(ctx, &apiv1.ExportContainerRequest{})) },
		"Logs": func() error {
			stream, err := s.Containers.Logs(ctx, &apiv1.LogsRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"Attach": func() error {
			stream, err := s.Containers.Attach(ctx)
			if err != nil {
				return err
			}
			if err := stream.Send(&apiv1.AttachRequest{Message: &apiv1.AttachRequest_Options{
				Options: &apiv1.AttachOptions{}}}); err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
		"Exec": func() error {
			stream, err := s.Containers.Exec(ctx)
			if err != nil {
				return err
			}
			o := &apiv1.ExecOptions{Command: []string{"x"}}
			if err := stream.Send(&apiv1.ExecRequest{Message: &apiv1.ExecRequest_Options{Options: o}}); err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
		"LoadImages": func() error {
			stream, err := s.Images.Load(ctx)
			if err == nil {
				_, err = stream.CloseAndRecv()
			}
			return err
		},
		"ImportImage": func() error {
			stream, err := s.Images.Import(ctx)
			if err != nil {
				return err
			}
			if err := stream.Send(&apiv1.ImportRequest{Message: &apiv1.ImportRequest_Options{
				Options: &apiv1.ImportOptions{}}}); err != nil {
				return err
			}
			_, err = stream.CloseAndRecv()
			return err
		},
	} {
		t.Run(method, func(t *testing.T) {
			s.domain.Fail(method, &cnm.Error{Kind: cnm.ErrExhausted, Reason: "none of " + method + " left"})
			err := call()
			if status.Code(err) != codes.ResourceExhausted ||
				status.Convert(err).Message() != "none of "+method+" left" {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// first is the error of a stream's first message.
func first[T any](stream grpc.ServerStreamingClient[T], err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

func TestPanicsBecomeInternalErrors(t *testing.T) {
	s := serve(t)
	s.domain.Fail("Status", errors.New("panic"))
	_, err := s.System.Status(t.Context(), &apiv1.StatusRequest{})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "as asked") {
		t.Fatalf("got %v, want an Internal error without the panic's text", err)
	}
	if log := s.log.String(); !strings.Contains(log, "as asked") || !strings.Contains(log, "fake.(*core).enter") {
		t.Fatalf("the log has neither panic nor stack:\n%s", log)
	}
	if _, err := s.System.Version(t.Context(), &apiv1.VersionRequest{}); err != nil {
		t.Fatalf("the server does not serve on: %v", err)
	}
}

func TestCallsAreLoggedWithTheirPeerAndCounted(t *testing.T) {
	s := serve(t)
	if _, err := s.Volumes.Create(t.Context(), &apiv1.CreateVolumeRequest{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("peer.pid=%d peer.uid=%d peer.gid=%d", os.Getpid(), os.Getuid(), os.Getgid())
	if log := s.log.String(); !strings.Contains(log, want) || !strings.Contains(log, "method=Volumes/Create") ||
		!strings.Contains(log, "took=") {
		t.Fatalf("log %q lacks %q, the method or the duration", log, want)
	}
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += " " + l.GetValue()
			}
			found[f.GetName()+labels] = uint64(m.GetCounter().GetValue()) + m.GetHistogram().GetSampleCount()
		}
	}
	for _, name := range []string{"vethloom_api_calls_total", "vethloom_api_call_seconds"} {
		if n := found[name+" OK vethloom.v1.Volumes/Create"]; n != 1 {
			t.Errorf("%s: %d calls counted, want 1: %v", name, n, found)
		}
	}
}

func TestReadsAreNotInTheLogOfChanges(t *testing.T) {
	s := serve(t)
	if _, err := s.Networks.List(t.Context(), &apiv1.ListNetworksRequest{}); err != nil {
		t.Fatal(err)
	}
	if log := s.log.String(); !strings.Contains(log, "level=DEBUG") || strings.Contains(log, "level=INFO") {
		t.Fatalf("a read is logged as a change: %s", log)
	}
}

func TestMalformedRequests(t *testing.T) {
	s := serve(t)
	pool := func(p *apiv1.Pool) func() error {
		return func() error {
			_, err := s.Networks.Create(t.Context(), &apiv1.CreateNetworkRequest{Name: "x", Pools: []*apiv1.Pool{p}})
			return err
		}
	}
	spec := func(c *apiv1.ContainerSpec) func() error {
		return func() error {
			c.Image = "busybox"
			_, err := s.Containers.Create(t.Context(), &apiv1.CreateContainerRequest{Spec: c})
			return err
		}
	}
	for want, call := range map[string]func() error{
		`subnet "10.0.0.1/24": has bits set beyond its length; did you mean 10.0.0.0/24?`: pool(
			&apiv1.Pool{Subnet: "10.0.0.1/24"}),
		`subnet "/200": is not a prefix length`: pool(
			&apiv1.Pool{Subnet: "/200"}),
		`subnet "x": is not a subnet`: pool(
			&apiv1.Pool{Subnet: "x"}),
		`gateway "fe80::1%eth0": is not an IP address`: pool(
			&apiv1.Pool{Gateway: "fe80::1%eth0"}),
		`ip-range "10.0.0.0": is not a subnet`: pool(
			&apiv1.Pool{IpRange: "10.0.0.0"}),
		`aux-address dns "?": is not an IP address`: pool(
			&apiv1.Pool{AuxAddresses: map[string]string{"dns": "?"}}),
		`publish "icmp": is no transport that can be published`: spec(
			&apiv1.ContainerSpec{Ports: []*apiv1.PortMapping{{Proto: "icmp", ContainerPort: 1}}}),
		`container port "0": is not a port`: spec(
			&apiv1.ContainerSpec{Ports: []*apiv1.PortMapping{{}}}),
		`host port "65535": is not a port, or its range of 2 goes beyond the last`: spec(
			&apiv1.ContainerSpec{Ports: []*apiv1.PortMapping{{HostPort: 65535, ContainerPort: 1, Count: 2}}}),
		`container port "4294967295": is not a port`: spec(
			&apiv1.ContainerSpec{Ports: []*apiv1.PortMapping{{ContainerPort: 1<<32 - 1, Count: 1<<32 - 1}}}),
		`dns "ns1": is not an IP address`: spec(
			&apiv1.ContainerSpec{Dns: []string{"ns1"}}),
		`mac-address "ff:ff:ff:ff:ff:ff": is not a unicast MAC address`: spec(
			&apiv1.ContainerSpec{Networks: []*apiv1.ConnectRequest{{MacAddress: "ff:ff:ff:ff:ff:ff"}}}),
		`filter "colour=red": is not a known filter; ` +
			`use KEY=VALUE with one of the keys name, id, status`: func() error {
			_, err := s.Containers.List(t.Context(), &apiv1.ListContainersRequest{Filters: []string{"colour=red"}})
			return err
		},
	} {
		err := call()
		if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), want) {
			t.Errorf("got %v, want InvalidArgument %q", err, want)
		}
	}
	if list, err := s.Containers.List(t.Context(), &apiv1.ListContainersRequest{All: true}); err != nil ||
		len(list.Containers) != 0 {
		t.Errorf("a refused container exists: %v %v", list, err)
	}
}

func TestFirstMessageOfAStreamMustBeItsOptions(t *testing.T) {
	s := serve(t)
	stream, err := s.Containers.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&apiv1.AttachRequest{Message: &apiv1.AttachRequest_Stdin{Stdin: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Fatalf("got %v", err)
	}
}

func TestABrokenUploadIsNotTakenForAFile(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := s.Images.Import(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*apiv1.ImportRequest{
		{Message: &apiv1.ImportRequest_Options{Options: &apiv1.ImportOptions{Reference: "half"}}},
		{Message: &apiv1.ImportRequest_Data{Data: []byte("tar and the first half")}},
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := stream.RecvMsg(&apiv1.ImportResponse{}); status.Code(err) != codes.Canceled {
		t.Fatalf("got %v", err)
	}
	if err := s.stop(); err != nil { // every handler has returned
		t.Fatal(err)
	}
	if _, err := s.domain.InspectImage(t.Context(), "half"); !errors.Is(err, cnm.ErrNotFound) {
		t.Fatalf("half an upload became an image: %v", err)
	}
}

func TestStopEndsStreamsAtOnceAndSaysWhy(t *testing.T) {
	s := serve(t)
	events, err := s.System.Events(t.Context(), &apiv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("the stop waited %v for an endless stream", d)
	}
	if _, err := events.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stopping") {
		t.Fatalf("got %v", err)
	}
}

func TestListenReplacesAStaleSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "netd.sock")
	l, err := server.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o660 {
		t.Fatalf("socket: %v %v, want mode 0660", st, err)
	}
	if _, err := server.Listen(t.Context(), path); !errors.Is(err, server.ErrServed) {
		t.Fatalf("a second daemon got %v, want ErrServed", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed daemon
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := server.Listen(t.Context(), path)
	if err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Listen(t.Context(), file); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
	long := filepath.Join(dir, strings.Repeat("x", 108))
	if _, err := server.Listen(t.Context(), long); err == nil ||
		!strings.Contains(err.Error(), "the kernel takes 107") {
		t.Errorf("a long path: %v", err)
	}
}
