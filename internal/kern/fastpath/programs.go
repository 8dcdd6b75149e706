package fastpath

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"

	"github.com/vethloom/vethloom/plan"
)

// Attach has a program at a link's ingress, behind those that are there. A program of ours that is there already is
// replaced in one step: no packet passes between.
func (p *Path) Attach(index uint32, f plan.FastProgram) error {
	o, err := p.objects()
	if err != nil {
		return err
	}
	prog := o.VethloomEnter
	if f.Network != "" {
		prog = o.VethloomLeave
		n, err := numberOf(f.Network)
		if err != nil {
			return err
		}
		if err := o.Links.Put(index, sender{Network: n, MAC: f.MAC}); err != nil {
			return full("links", err)
		}
	}
	return p.enter(func() error {
		ours, err := p.ours(index)
		for _, again := range ours[min(len(ours), 1):] { // somebody has attached it again
			err = errors.Join(err, p.detach(index, again))
		}
		if err != nil {
			return err
		}
		var instead *placed
		if len(ours) > 0 {
			instead = &ours[0]
		}
		if err := p.at.put(index, prog, instead); err != nil {
			return fmt.Errorf("attach program %s to link %s: %w", prog, f.Link, err)
		}
		if f.Network == "" { // it may have been an endpoint's
			return absent(o.Links.Delete(index))
		}
		return nil
	})
}

// Detach takes programs of ours off a link, and forgets the link. That there is none, or no link, is no error.
func (p *Path) Detach(index uint32) error {
	o := p.found()
	if o == nil {
		return nil
	}
	err := p.enter(func() error {
		ours, err := p.ours(index)
		for _, o := range ours {
			err = errors.Join(err, p.detach(index, o))
		}
		return err
	})
	return errors.Join(err, absent(o.Links.Delete(index)))
}

func (p *Path) detach(index uint32, o placed) error {
	if err := p.at.take(index, o); err != nil {
		return fmt.Errorf("detach program %d from link %d: %w", o.id, index, err)
	}
	return nil
}

// ours are the programs of ours at a link.
func (p *Path) ours(index uint32) ([]placed, error) {
	all, err := p.at.list(index)
	var out []placed
	for _, o := range all {
		about, err := p.program(o.id)
		if err != nil {
			return nil, err
		}
		if about.ours {
			out = append(out, o)
		}
	}
	return out, err
}

// program tells what a program is.
func (p *Path) program(id ebpf.ProgramID) (program, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if about, ok := p.seen[id]; ok {
		return about, nil
	}
	prog, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return program{}, nil
	}
	if err != nil {
		return program{}, fmt.Errorf("open program %d: %w", id, err)
	}
	defer prog.Close()
	about, err := describe(prog)
	if err == nil {
		p.seen[id] = about
	}
	return about, err
}

// program is what is known of a program.
type program struct {
	ours   bool
	uplink bool
	tag    string // of its instructions
	tables map[ebpf.MapID]bool
}

func describe(prog *ebpf.Program) (program, error) {
	info, err := prog.Info()
	if err != nil {
		return program{}, fmt.Errorf("look at program %s: %w", prog, err)
	}
	about := program{ours: info.Name == leaveName || info.Name == enterName, uplink: info.Name == enterName,
		tag: info.Tag, tables: map[ebpf.MapID]bool{}}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		about.tables[id] = true
	}
	return about, nil
}

// Programs are those of ours at links, which are given by their indexes and names. Entries of links that are gone have
// "#" and the index for a name.
func (p *Path) Programs(links map[uint32]string) ([]plan.FastProgram, error) {
	o := p.found()
	if o == nil {
		return nil, nil
	}
	current, err := p.current(o)
	if err != nil {
		return nil, err
	}
	var out []plan.FastProgram
	senders := map[uint32]sender{}
	if err := each(o.Links, func(index uint32, l sender) { senders[index] = l }); err != nil {
		return nil, err
	}
	err = p.enter(func() error {
		for index, name := range links {
			ours, err := p.ours(index)
			if err != nil {
				return err
			}
			if len(ours) == 0 {
				continue
			}
			about, err := p.program(ours[0].id)
			if err != nil {
				return err
			}
			f := plan.FastProgram{Link: name, Stale: len(ours) > 1 || !about.is(current[about.uplink])}
			if known, ok := senders[index]; !about.uplink {
				f.Network, f.MAC, f.Stale = known.Network.network(), known.MAC, f.Stale || !ok
				delete(senders, index)
			}
			out = append(out, f)
		}
		return nil
	})
	for index, l := range senders {
		out = append(out, plan.FastProgram{Link: nameOf(links, index), Network: l.Network.network(), MAC: l.MAC,
			Stale: true})
	}
	return out, err
}

// is reports whether a program does what another one does, with the same tables.
func (a program) is(b program) bool {
	if a.tag != b.tag || len(a.tables) != len(b.tables) {
		return false
	}
	for id := range a.tables {
		if !b.tables[id] {
			return false
		}
	}
	return true
}

// current are the programs of this version, by whether they are for uplinks.
func (p *Path) current(o *kernelObjects) (map[bool]program, error) {
	out := map[bool]program{}
	for _, prog := range []*ebpf.Program{o.VethloomLeave, o.VethloomEnter} {
		about, err := describe(prog)
		if err != nil {
			return nil, err
		}
		out[about.uplink] = about
	}
	return out, nil
}
