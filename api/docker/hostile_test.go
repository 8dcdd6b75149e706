package docker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/docker"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/internal/await"
)

// spaces is JSON that never ends, as long as it is read; it counts how much of it was.
type spaces struct {
	left int64
	read atomic.Int64
}

func (s *spaces) Read(b []byte) (int, error) {
	if s.left <= 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), s.left))
	copy(b, strings.Repeat(" ", n))
	s.left -= int64(n)
	s.read.Add(int64(n))
	return n, nil
}

func TestLargeBodiesAreNotRead(t *testing.T) {
	_, c := serve(t, fake.New())
	for _, length := range []int64{100 << 20, -1} { // as it says, or in chunks
		body := &spaces{left: 100 << 20}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://docker/networks/create", body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = length
		r.Header.Set("Content-Type", "application/json")
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(string(text), "too large") {
			t.Errorf("%d: %s %s", length, answer.Status, text)
		}
		if read := body.read.Load(); read > 16<<20 {
			t.Errorf("%d: %d bytes were read", length, read)
		}
	}
}

func TestBodies(t *testing.T) {
	_, c := serve(t, fake.New())
	for body, status := range map[string]int{
		`{"Name":"a"}`: 201, `{"Name":"b"} `: 201, `{"Name":"c","Driver":null,"Unknown":[{}]}`: 201,
		`{"Name":`: 400, `{"Name":3}`: 400, `[]`: 400, `{"Name":"d"}{}`: 400, `{"Name":"e"} x`: 400, "\x00\xff": 400,
		`{"Name":"f","IPAM":{"Config":[{"Subnet":"10.0.0.0"}]}}`: 400, strings.Repeat("[", 1<<20): 400,
		`{"Labels":` + strings.Repeat(`{"a":`, 1<<16): 400,
	} {
		r, err := c.Post("http://docker/networks/create", "application/json; charset=utf-8", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != status {
			t.Errorf("%.60q: %s %.300s", body, r.Status, text)
		}
	}
	r, err := c.Post("http://docker/networks/create", "text/plain", strings.NewReader(`{"Name":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusBadRequest {
		t.Errorf("another content type: %s", r.Status)
	}
}

// A stop ends streams at once, and nothing of them is left.
func TestStopEndsStreams(t *testing.T) {
	d := fake.New()
	defer d.Close()
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- docker.New(docker.Config{Networks: d, Containers: d, Images: d, Volumes: d, System: d}).Serve(ctx, l)
	}()
	c, err := client.New(client.WithHost("unix://" + path))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	watched := c.Events(t.Context(), client.EventsListOptions{})
	await.True(t, "the events are watched", func() bool { return d.Watchers.Load() == 1 })
	begin := time.Now()
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
	select {
	case <-watched.Err:
	case <-time.After(await.Patience):
		t.Error("the client's stream goes on")
	}
	if n := d.Watchers.Load(); n != 0 {
		t.Errorf("%d watch events", n)
	}
}

// Who sends a part of a request and stops holds nothing for ever.
func TestClientsThatStop(t *testing.T) {
	d := fake.New()
	defer d.Close()
	srv := docker.New(docker.Config{Networks: d, Containers: d, Images: d, Volumes: d, System: d})
	for name, request := range map[string]string{
		"a body that nobody reads": "POST /nosuch HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
		"a body that is no JSON": "POST /networks/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
			"Content-Length: 100\r\n\r\n}",
	} {
		t.Run(name, func(t *testing.T) {
			var done atomic.Bool
			s := httptest.NewUnstartedServer(srv)
			s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
				if st == http.StateClosed {
					done.Store(true)
				}
			}
			s.Start()
			defer s.Close()
			c, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatal(err)
			}
			answer, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			await.True(t, "the server lets go of the connection", done.Load)
		})
	}
}

// FuzzRequests sends whatever there is. Nothing may panic, hang, or answer with something else than a status.
func FuzzRequests(f *testing.F) {
	for _, seed := range []struct{ method, path, body string }{
		{"GET", "/v1.41/networks?filters={\"name\":[\"a\"]}", ""},
		{"GET", "/networks?filters={\"name\":{\"a\":true},\"label\":[\"x=y\"]}", ""},
		{"POST", "/v1.56/networks/create",
			`{"Name":"a","IPAM":{"Config":[{"Subnet":"10.1.0.0/24","Gateway":"10.1.0.1"}]}}`},
		{"POST", "/networks/bridge/connect", `{"Container":"x","EndpointConfig":{"MacAddress":"02:00:00:00:00:01"}}`},
		{"POST", "/volumes/create", `{"Name":"a","Labels":{"b":"c"}}`},
		{"DELETE", "/volumes/a?force=1", ""},
		{"GET", "/images/busybox/json", ""},
		{"POST", "/images/create?fromImage=alpine&tag=latest", ""},
		{"POST", "/images/create?fromSrc=-&repo=a&tag=b&changes=CMD+x", "tar"},
		{"POST", "/images/load", "a b c"},
		{"POST", "/commit?container=x", `{"Cmd":["a"],"ExposedPorts":{"80/tcp":{}}}`},
		{"GET", "/events?since=0&until=1", ""},
		{"GET", "/system/df?type=image&verbose=1", ""},
		{"POST", "/auth", `{"username":"a","password":"b","serveraddress":"https://x/y"}`},
		{"GET", "/v1.99999999999999999999/info", ""},
		{"GET", "/images/%2e%2e/%00/json", ""},
	} {
		f.Add(seed.method, seed.path, seed.body, "eyJ1c2VybmFtZSI6ImEifQ==")
	}
	f.Fuzz(func(t *testing.T, method, path, body, auth string) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, "http://docker/"+strings.TrimPrefix(path, "/"),
			strings.NewReader(body))
		if err != nil || strings.ContainsAny(path, "\r\n") {
			return // no client can send it
		}
		if strings.HasPrefix(r.URL.Path, "/events") || strings.Contains(r.URL.Path, "/events") {
			q := r.URL.Query()
			q.Set("until", "1")
			r.URL.RawQuery = q.Encode()
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Registry-Auth", auth)
		d := fake.New()
		defer d.Close()
		w := httptest.NewRecorder()
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
		}()
		docker.New(docker.Config{Networks: d, Containers: d, Images: d, Volumes: d, System: d}).ServeHTTP(w, r)
		if ctx.Err() != nil {
			t.Fatalf("%s %s takes too long", method, path)
		}
		if w.Code < 200 || w.Code > 599 || w.Code == http.StatusInternalServerError {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	})
}

// Requests leave nothing behind, whatever their answer.
func TestManyClients(t *testing.T) {
	d := fake.New()
	_, c := serve(t, d)
	before := runtime.NumGoroutine()
	for i := range 200 {
		status, _, _ := answered(t, c, "GET", fmt.Sprintf("/networks/x%d", i), nil)
		if status != http.StatusNotFound {
			t.Fatal(status)
		}
	}
	await.True(t, "nothing is left of the requests", func() bool { return runtime.NumGoroutine() <= before+4 })
}
