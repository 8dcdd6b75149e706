package udp

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/handover"
	"github.com/vethloom/vethloom/plan"
)

// Keeper has a tunnel's link and socket open over the end of this process. None of its methods may call the Host, but
// for what Resume is given.
type Keeper interface {
	// Hold holds further descriptors of what is open, with a note, in place of what the key had.
	Hold(key string, note any, files ...descriptor.Descriptor)
	// Note changes the note.
	Note(key string, note any)
	// Drop gives the key's files up, and returns when they are closed.
	Drop(key string)
	// Resume calls a function with each item of an earlier process, which takes over the files; an error gives them up.
	Resume(func(handover.Item) error)
}

// nobody keeps nothing.
type nobody struct{}

func (nobody) Hold(string, any, ...descriptor.Descriptor) {}
func (nobody) Note(string, any)                           {}
func (nobody) Drop(string)                                {}
func (nobody) Resume(func(handover.Item) error)           {}

// note is what the next process has to know to go on with a tunnel before it knows anything else.
type note struct {
	Tunnel  plan.Tunnel
	Remotes map[netip.Prefix]netip.Addr
}

// noteGap is between two notes of a tunnel, when its remotes change one by one. What the last one did not tell the next
// process finds missing.
const noteGap = 20 * time.Millisecond

func (l *link) note() note {
	t := l.tunnel.spec
	t.Inside = slices.Clone(l.inside)
	return note{Tunnel: t, Remotes: maps.Clone(l.remotes)}
}

// hold hands a tunnel that has just been opened to the Keeper.
func (h *Host) hold(l *link) {
	t := l.tunnel
	dev, sock, err := t.duplicate()
	if err != nil { // it has ended already
		return
	}
	defer descriptor.Close([]descriptor.Descriptor{dev, sock})
	h.cfg.Keeper.Hold(t.spec.Link, l.note(), dev, sock)
	if t.dead.Load() { // it may have been dropped before it was held
		h.cfg.Keeper.Drop(t.spec.Link)
	}
}

// noteSoon tells the Keeper what has changed.
func (h *Host) noteSoon(l *link) {
	if l.noting == nil {
		h.after(&l.noting, max(noteGap, buildShare*l.noted), func() { h.note(l) })
	}
}

func (h *Host) note(l *link) {
	if l.tunnel == nil {
		return
	}
	start := time.Now()
	h.cfg.Keeper.Note(l.tunnel.spec.Link, l.note())
	l.noted = time.Since(start)
}

// Resume goes on with the tunnels that an earlier Host has left with the Keeper, as they were: with their remotes, and
// with what has waited in the link's queue and in the socket's buffer. Then List has them, and a pass changes what is
// no longer wanted. It must be called first, in the network namespace of the tunnels: those of another one are given
// up.
func (h *Host) Resume() {
	h.cfg.Keeper.Resume(h.resume)
}

func (h *Host) resume(i handover.Item) (err error) {
	given := true
	defer func() {
		if given {
			descriptor.Close(i.Files)
		}
	}()
	var n note
	if err := json.Unmarshal(i.Note, &n); err != nil {
		return fmt.Errorf("read the note of tunnel %s: %w", i.Key, err)
	}
	if err := checkTunnel(n.Tunnel); err != nil {
		return err
	}
	if i.Key != n.Tunnel.Link || len(i.Files) != 2 {
		return fmt.Errorf("tunnel %s is noted as %s with %d files: want a link and a socket", n.Tunnel.Link, i.Key,
			len(i.Files))
	}
	for p, dst := range n.Remotes {
		if err := checkRemote(plan.TunnelPeer{Link: i.Key, Prefix: p, Dst: dst}); err != nil {
			return err
		}
		if dst.Is4() != n.Tunnel.Local.Is4() {
			delete(n.Remotes, p)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.links[i.Key] != nil {
		return fmt.Errorf("tunnel %s is open already", i.Key)
	}
	l := h.link(i.Key)
	l.inside = n.Tunnel.Inside
	maps.Copy(l.remotes, n.Remotes)
	given = false
	if err := h.begin(l, n.Tunnel, i.Files); err != nil {
		delete(h.links, i.Key)
		return err
	}
	h.cfg.Log.Info("going on with a tunnel", "link", i.Key, "remotes", len(l.remotes))
	return nil
}

// duplicate makes further descriptors of what is open.
func (t *tunnel) duplicate() (dev, sock descriptor.Descriptor, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.released {
		return dev, sock, fmt.Errorf("tunnel %s has ended", t.spec.Link)
	}
	if dev, err = descriptor.Of(t.dev.fd).Duplicate(); err != nil {
		return dev, sock, err
	}
	if sock, err = descriptor.Of(t.sock.fd).Duplicate(); err != nil {
		dev.Close()
	}
	return dev, sock, err
}

// take goes on with a link and a socket that are open, if they are still those of the tunnel. It takes them over in any
// case.
func (t *tunnel) take(files []descriptor.Descriptor) error {
	if len(files) == 0 {
		return nil
	}
	t.dev = &device{fd: files[0].FD()}
	t.sock = &socket{fd: files[1].FD(), probe: -1, v6: !t.spec.Local.Is4()}
	var here unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &here); err != nil {
		return fmt.Errorf("look at the network namespace: %w", err)
	}
	for _, f := range []struct {
		what    string
		fd      int
		request uint
	}{{"link", t.dev.fd, unix.TUNGETDEVNETNS}, {"socket", t.sock.fd, unix.SIOCGSKNS}} {
		if err := sameNamespace(f.fd, f.request, here); err != nil {
			return fmt.Errorf("look at the network namespace of the %s: %w", f.what, err)
		}
	}
	if err := t.dev.resume(t.spec.Link, t.spec.Plain); err != nil {
		return err
	}
	return t.sock.resume(netip.AddrPortFrom(t.spec.Local, t.spec.Port), t.spec.Plain)
}

// sameNamespace asks for the network namespace of a link or a socket.
func sameNamespace(fd int, request uint, here unix.Stat_t) error {
	ns, err := unix.IoctlRetInt(fd, request)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	var there unix.Stat_t
	if err := unix.Fstat(ns, &there); err != nil {
		return err
	}
	if there.Dev != here.Dev || there.Ino != here.Ino {
		return fmt.Errorf("it is in namespace %d, and this is %d", there.Ino, here.Ino)
	}
	return nil
}

// resume checks that an open link is the one, and sets it up as attaching does.
func (d *device) resume(name string, plain bool) error {
	req, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(d.fd, unix.TUNGETIFF, req); err != nil {
		return fmt.Errorf("look at the open TUN link of %s: %w", name, err) // it was deleted
	}
	flags := req.Uint16()
	if req.Name() != name || flags&unix.IFF_TUN == 0 {
		return fmt.Errorf("the open TUN link of %s is %s now", name, req.Name())
	}
	if d.header = flags&unix.IFF_VNET_HDR != 0; d.header {
		if plain {
			return fmt.Errorf("the open TUN link %s has offloads, and is to have none", name)
		}
		return d.offload()
	}
	return unix.IoctlSetInt(d.fd, unix.TUNSETOFFLOAD, 0)
}

// resume checks that an open socket is where it is wanted, and sets it up as opening does.
func (s *socket) resume(local netip.AddrPort, plain bool) error {
	proto, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return fmt.Errorf("look at the open socket of %s: %w", local, err)
	}
	if proto != unix.IPPROTO_UDP {
		return fmt.Errorf("the open socket of %s is of protocol %d, not UDP", local, proto)
	}
	var at sockaddr
	at.n = uint32(len(at.raw))
	if _, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(s.fd), uintptr(unsafe.Pointer(&at.raw)),
		uintptr(unsafe.Pointer(&at.n))); errno != 0 {
		return fmt.Errorf("look where the open socket of %s is: %w", local, errno)
	}
	if at.raw != sockaddrOf(local).raw {
		return fmt.Errorf("the open socket of %s is at %s", local, at.addr())
	}
	return s.prepare(plain)
}
