package plugintest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
)

// server is the plugin.
type server struct {
	file string // has its state

	mu     sync.Mutex
	state  state
	faults map[string]Fault
	calls  []string
	last   map[string]string
}

// state is what outlives the process.
type state struct {
	Networks  map[string]network
	Endpoints map[string]endpoint
	Pools     map[string]pool
}

type network struct{ Bridge, Gateway string }

type endpoint struct {
	Network, Host, Inside string
	Joined, External      bool
}

type pool struct {
	Prefix string
	Given  []string
}

// serve listens and answers until the process is killed.
func serve(path string) error {
	s := &server{file: path + ".state", faults: map[string]Fault{}, last: map[string]string{}, state: state{
		Networks: map[string]network{}, Endpoints: map[string]endpoint{}, Pools: map[string]pool{}}}
	if b, err := os.ReadFile(s.file); err == nil {
		if err := json.Unmarshal(b, &s.state); err != nil {
			return err
		}
	}
	_ = os.Remove(path) // of one that was killed
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/test/behave", s.behave)
	mux.HandleFunc("/test/calls", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		fmt.Fprintln(w, strings.Join(s.calls, "\n"))
	})
	mux.HandleFunc("/test/last", func(w http.ResponseWriter, r *http.Request) {
		method, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		fmt.Fprint(w, s.last[string(method)])
	})
	mux.HandleFunc("/test/made", s.made)
	mux.HandleFunc("/", s.serveCall)
	return http.Serve(l, mux)
}

func (s *server) behave(w http.ResponseWriter, r *http.Request) {
	var f Fault
	if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.How == "" {
		delete(s.faults, f.Method)
	} else {
		s.faults[f.Method] = f
	}
}

// made lists what the plugin has.
func (s *server) made(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for id := range s.state.Networks {
		out = append(out, "network "+id[:12])
	}
	for id, e := range s.state.Endpoints {
		line := "endpoint " + id[:12]
		if e.Joined {
			line += " joined"
		}
		if e.External {
			line += " external"
		}
		out = append(out, line)
	}
	for _, p := range s.state.Pools {
		out = append(out, "pool "+p.Prefix+" "+strings.Join(p.Given, " "))
	}
	slices.Sort(out)
	fmt.Fprintln(w, strings.Join(out, "\n"))
}

// fault takes what is to go wrong with a call.
func (s *server) fault(method, body string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, method)
	s.last[method] = body
	f := s.faults[method]
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			delete(s.faults, method)
			f.Times = 1
		} else {
			s.faults[method] = f
		}
	}
	return f
}

func (s *server) serveCall(w http.ResponseWriter, r *http.Request) {
	method := strings.TrimPrefix(r.URL.Path, "/")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f := s.fault(method, string(body))
	switch f.How {
	case Hang:
		<-r.Context().Done()
		return
	case Die:
		os.Exit(3)
	case Garbage:
		fmt.Fprint(w, "\x00\xff<html>what?</html>")
		return
	case Empty:
		return
	case Huge:
		fmt.Fprintf(w, `{"Filler": "%s"}`, strings.Repeat("x", 2<<20))
		return
	case Status:
		http.Error(w, "it is broken", http.StatusInternalServerError)
		return
	case Refuse:
		fmt.Fprint(w, `{"Err": "not today", "Error": "not today"}`)
		return
	case Answer:
		fmt.Fprint(w, f.Answer)
		return
	}
	answer, err := s.do(method, body)
	switch {
	case f.How == HangAfter:
		<-r.Context().Done()
		return
	case f.How == DieAfter:
		os.Exit(3)
	case f.How == Lie:
		fmt.Fprint(w, f.Answer)
		return
	case errors.Is(err, errors.ErrUnsupported):
		http.NotFound(w, r)
		return
	case err != nil:
		answer = map[string]string{"Err": err.Error(), "Error": err.Error()}
	}
	_ = json.NewEncoder(w).Encode(answer) // who asked may have gone
}

// do carries out a call and keeps the state.
func (s *server) do(method string, body []byte) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer, err := s.dispatch(method, body)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(s.state)
	if err != nil {
		return nil, err
	}
	return answer, os.WriteFile(s.file, b, 0o600)
}
