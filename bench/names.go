package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/vethloom/vethloom/internal/dns"
	"github.com/vethloom/vethloom/plan"
)

// stageNames is a process that answers questions about names, in the way that answererVariable says.
const (
	stageNames       = "names"
	answererVariable = "VETHLOOM_BENCH_ANSWERER"
)

// The ways to answer.
const (
	answerResolver = "vethloom's resolver"
	answerEcho     = "bare miekg/dns echo"
	answerDocker   = "dockerd's resolver"
	// answerElsewhere is the echo where servers elsewhere are asked
	answerElsewhere = "elsewhere"
)

// elsewhereAddr is the server that the resolver asks.
const elsewhereAddr = "127.0.0.53:53"

const (
	sandboxes   = 500   // of the resolver
	askers      = 16    // sockets that wait for one answer each
	namesRound  = 50000 // questions
	ticksSecond = 100   // of CPU time, as /proc has it
)

// namesGroup compares what an answer about a container's name costs, and says what 500 sandboxes take.
func namesGroup(ctx context.Context, m *machine) ([]group, error) {
	questions := namesRound
	if m.cfg.short {
		questions /= 10
	}
	g := group{Title: "Answers about names", Unit: "1000 a CPU second", More: true,
		Notes: []string{fmt.Sprintf("over UDP, of a resolver that serves %d sandboxes; CPU time of the server alone",
			sandboxes)}}
	memory := group{Title: fmt.Sprintf("Resident memory, after %d questions", questions), Unit: "MB", Cost: true}
	ours := g.series(answerResolver)
	for _, name := range []string{answerResolver, answerEcho} {
		s := ours
		if name != answerResolver {
			s = g.series(name)
			s.Ours = ours
		}
		a, err := startAnswerer(ctx, name)
		if err != nil {
			return nil, err
		}
		err = a.measure(questions, m.cfg.tcpRounds+1, s)
		held, failed := a.resident()
		if err = errors.Join(err, failed, a.stop()); err != nil {
			return nil, fmt.Errorf("ask %s: %w", name, err)
		}
		memory.series(name).Samples = []float64{held}
	}
	if err := dockerNames(ctx, m, questions, g.series(answerDocker), ours); err != nil {
		return nil, fmt.Errorf("ask %s: %w", answerDocker, err)
	}
	forwarding, err := forwardingGroup(ctx, m)
	return append([]group{g, memory}, forwarding...), err
}

// dockerNames asks dockerd's resolver from inside of a container, as nobody else can.
func dockerNames(ctx context.Context, m *machine, questions int, s, ours *series) error {
	d, err := m.startDocker(ctx)
	if err != nil || d == nil {
		return err
	}
	s.Ours = ours
	for _, args := range [][]string{{"network", "create", "names"},
		{"run", "-d", "--network", "names", "--name", "web", dockerImage, "sleep", "1000"}} {
		if _, err := d.cli(ctx, args...); err != nil {
			return err
		}
	}
	inside, err := d.cli(ctx, "inspect", "-f", "/proc/{{.State.Pid}}/ns/net", "web")
	if err != nil {
		return err
	}
	a := &answerer{pid: d.pid, at: []string{"127.0.0.11:53"}, place: inside}
	err = a.measure(questions/5, m.cfg.tcpRounds+1, s)
	_, failed := d.cli(ctx, "rm", "-f", "web")
	_, left := d.cli(ctx, "network", "rm", "names")
	return errors.Join(err, failed, left)
}

// forwardingGroup compares answers of a server elsewhere, each to another question, with those that the resolver has
// asked it for.
func forwardingGroup(ctx context.Context, m *machine) ([]group, error) {
	g := group{Title: "An answer from elsewhere", Unit: "ms",
		Notes: []string{"one question at a time, none of them twice; the difference is what the resolver adds"}}
	echo, err := startAnswerer(ctx, answerElsewhere)
	if err != nil {
		return nil, err
	}
	resolver, err := startAnswerer(ctx, answerResolver)
	if err != nil {
		return nil, errors.Join(err, echo.stop())
	}
	ours := g.series(answerResolver)
	direct := g.series("asked without it")
	for i := range 100 * m.cfg.rounds {
		for _, s := range []*series{direct, ours} {
			at := resolver.at[0]
			if s == direct {
				at = echo.at[0]
			}
			took, failed := askOnce(at, fmt.Sprint("n", i, ".example."))
			if err = errors.Join(err, failed); err != nil {
				return nil, errors.Join(err, echo.stop(), resolver.stop())
			}
			s.add(took)
		}
	}
	return []group{g}, errors.Join(echo.stop(), resolver.stop())
}

// askOnce says how long a question took, on a socket of its own.
func askOnce(at, name string) (time.Duration, error) {
	q, err := new(mdns.Msg).SetQuestion(name, mdns.TypeA).Pack()
	if err != nil {
		return 0, err
	}
	c, err := net.Dial("udp", at)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := c.Write(q); err != nil {
		return 0, err
	}
	var in [512]byte
	if n, err := c.Read(in[:]); err != nil || n < 4 || in[3]&15 != 0 {
		return 0, fmt.Errorf("an answer of %d bytes, % x: %w", n, in[:4], err)
	}
	return time.Since(began), nil
}

// answerer is a process that answers.
type answerer struct {
	cmd   *exec.Cmd
	pid   int
	in    io.Closer
	at    []string // its addresses
	place string   // the network namespace that it is asked from; "": this one
}

func startAnswerer(ctx context.Context, name string) (*answerer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), stageVariable+"="+stageNames, answererVariable+"="+name)
	cmd.Stderr = os.Stderr
	in, noIn := cmd.StdinPipe()
	out, noOut := cmd.StdoutPipe()
	if err := errors.Join(noIn, noOut); err != nil {
		return nil, fmt.Errorf("make pipes to %s: %w", name, err)
	}
	a := &answerer{cmd: cmd, in: in}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	a.pid = cmd.Process.Pid
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), a.stop())
	}
	a.at = strings.Fields(line)
	return a, nil
}

func (a *answerer) stop() error { return errors.Join(a.in.Close(), a.cmd.Wait()) }

// measure asks in rounds, and notes how many answers a second of CPU time brought.
func (a *answerer) measure(questions, rounds int, s *series) error {
	for range rounds {
		before, err := a.cpu()
		if err != nil {
			return err
		}
		if err := a.ask(questions); err != nil {
			return err
		}
		after, err := a.cpu()
		if err != nil {
			return err
		}
		s.Samples = append(s.Samples, float64(questions)/max(after-before, 1./ticksSecond)/1000)
	}
	return nil
}

// ask asks questions, several at a time, all over the addresses.
func (a *answerer) ask(questions int) error {
	var next atomic.Int64
	errs := make(chan error, askers)
	var wg sync.WaitGroup
	for i := range askers {
		wg.Go(func() {
			err := enter(a.place)
			if err == nil {
				err = askAt(a.part(i), &next, questions)
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

// part are the addresses of one asker: each has some, and all of a single one.
func (a *answerer) part(i int) []string {
	if len(a.at) < askers {
		return a.at
	}
	return a.at[i*len(a.at)/askers : (i+1)*len(a.at)/askers]
}

func askAt(at []string, next *atomic.Int64, questions int) error {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for _, a := range at {
		c, err := net.Dial("udp", a)
		if err != nil {
			return err
		}
		conns = append(conns, c)
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
	}
	q, err := new(mdns.Msg).SetQuestion("web.", mdns.TypeA).Pack()
	if err != nil {
		return err
	}
	var in [512]byte
	for i := 0; next.Add(1) <= int64(questions); i++ {
		c := conns[i%len(conns)]
		if _, err := c.Write(q); err != nil {
			return err
		}
		if n, err := c.Read(in[:]); err != nil || !bytes.Equal(in[:2], q[:2]) {
			return fmt.Errorf("an answer of %d bytes: %w", n, err)
		}
	}
	return nil
}

// cpu is the time that the process has run, in seconds.
func (a *answerer) cpu() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("%q has no times", text)
	}
	ticks := 0
	for _, f := range fields[11:13] { // user and system
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return float64(ticks) / ticksSecond, nil
}

// resident is the memory that the process holds, in MB.
func (a *answerer) resident() (float64, error) { return resident(a.pid) }

// answerNames is the process: it answers until its standard input ends, at the addresses that it prints.
func answerNames() (int, error) {
	n, place := 1, "127.0.0.1:0"
	switch os.Getenv(answererVariable) {
	case answerResolver:
		n = sandboxes
	case answerElsewhere:
		place = elsewhereAddr
	}
	var at []string
	var files []dns.Sockets
	for range n {
		addr, socks, err := nameSockets(place)
		if err != nil {
			return 1, err
		}
		at, files = append(at, addr), append(files, socks)
	}
	stop, err := serveNames(files)
	if err != nil {
		return 1, err
	}
	fmt.Println(strings.Join(at, " "))
	_, err = io.Copy(io.Discard, os.Stdin)
	stop()
	return 0, err
}

// nameSockets opens what netd would hand over.
func nameSockets(place string) (string, dns.Sockets, error) {
	pc, err := net.ListenPacket("udp4", place)
	if err != nil {
		return "", dns.Sockets{}, err
	}
	u := pc.(*net.UDPConn)
	defer u.Close()
	at := u.LocalAddr().String()
	l, err := net.Listen("tcp4", at)
	if err != nil {
		return "", dns.Sockets{}, err
	}
	defer l.Close()
	var s dns.Sockets
	if s.UDP, err = u.File(); err != nil {
		return "", s, err
	}
	s.TCP, err = l.(*net.TCPListener).File()
	return at, s, err
}

// serveNames answers at sockets: a single one is the echo's.
func serveNames(files []dns.Sockets) (stop func(), err error) {
	if len(files) == 1 {
		return serveEcho(files[0])
	}
	debug.SetGCPercent(50) // as net-resolver does
	names := dns.NewNames()
	resolv, err := resolvConf()
	if err != nil {
		return nil, err
	}
	srv := dns.New(dns.Config{Names: names, Resolv: []string{resolv}})
	zone := plan.NameZone{ID: "f", Name: "front", Subnets: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16")}}
	names.Apply([]plan.Object{zone}, nil)
	for i, socks := range files {
		box := fmt.Sprint("box", i)
		m := plan.NameMember{Zone: "f", ID: box, NS: plan.NetNS(box), Names: []string{box},
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)})}}
		if i == 0 {
			m.Names = append(m.Names, "web")
		}
		names.Apply([]plan.Object{m}, nil)
		n := plan.NameServer{NS: m.NS, Addr: netip.AddrFrom4([4]byte{127, 0, 0, 11})}
		if err := srv.Serve(n, socks); err != nil {
			return nil, err
		}
	}
	return srv.Close, nil
}

// resolvConf writes a file that names the server elsewhere, in a /run of our own.
func resolvConf() (string, error) {
	host, _, err := net.SplitHostPort(elsewhereAddr)
	if err != nil {
		return "", err
	}
	const path = "/run/resolv.conf"
	return path, os.WriteFile(path, []byte("nameserver "+host+"\n"), 0o644)
}

// serveEcho answers each question with one address, and knows nothing.
func serveEcho(socks dns.Sockets) (stop func(), err error) {
	defer socks.UDP.Close()
	defer socks.TCP.Close()
	pc, err := net.FilePacketConn(socks.UDP)
	if err != nil {
		return nil, err
	}
	srv := &mdns.Server{PacketConn: pc, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		r := new(mdns.Msg).SetReply(q)
		r.Answer = []mdns.RR{&mdns.A{A: net.IPv4(10, 7, 0, 1), Hdr: mdns.RR_Header{Name: q.Question[0].Name,
			Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 5}}}
		_ = w.WriteMsg(r) // who asks sees it
	})}
	go func() { _ = srv.ActivateAndServe() }() // until it is shut down
	return func() { _ = srv.Shutdown() }, nil
}
