package fastpath

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/vethloom/vethloom/plan"
)

// Attach has a program at a link's ingress, and at the VXLAN device of a bridged network one at its egress too, behind
// those that are there. A program of ours that is there already is replaced in one step: no packet passes between.
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
	if f.Bridged {
		prog = o.VethloomLand
	}
	return p.enter(func() error {
		err := p.attach(index, ingress, prog)
		if f.Bridged { // what the answers lead to comes before them
			err = errors.Join(err, p.attach(index, egress, o.VethloomResolve))
		}
		if err != nil {
			return fmt.Errorf("attach programs to link %s: %w", f.Link, err)
		}
		if f.Network == "" { // it may have been an endpoint's
			return absent(o.Links.Delete(index))
		}
		return nil
	})
}

// attach has a program at one side of a link.
func (p *Path) attach(index uint32, s side, prog *ebpf.Program) error {
	ours, err := p.ours(index, s)
	for _, again := range ours[min(len(ours), 1):] { // somebody has attached it again
		err = errors.Join(err, p.detach(index, s, again))
	}
	if err != nil {
		return err
	}
	var instead *placed
	if len(ours) > 0 {
		instead = &ours[0]
	}
	if err := p.at.put(index, s, prog, instead); err != nil {
		return fmt.Errorf("attach program %s: %w", prog, err)
	}
	return nil
}

// Detach takes programs of ours off a link, and forgets the link. That there is none, or no link, is no error.
func (p *Path) Detach(index uint32) error {
	o := p.found()
	if o == nil {
		return nil
	}
	err := p.enter(func() (err error) {
		for _, s := range []side{egress, ingress} {
			ours, e := p.ours(index, s)
			err = errors.Join(err, e)
			for _, o := range ours {
				err = errors.Join(err, p.detach(index, s, o))
			}
		}
		return err
	})
	return errors.Join(err, absent(o.Links.Delete(index)))
}

// Forget forgets a link that goes now, and takes its program with it: to take one off costs a grace period of the
// kernel (10 ms). Of one that is gone already the index is 0.
func (p *Path) Forget(index uint32, f plan.FastProgram) error {
	o := p.found()
	if o == nil || f.Network == "" {
		return nil
	}
	if index != 0 {
		return absent(o.Links.Delete(index))
	}
	n, err := numberOf(f.Network)
	if err != nil {
		return err
	}
	var gone []uint32
	err = each(o.Links, func(index uint32, l sender) {
		if l == (sender{Network: n, MAC: f.MAC}) {
			gone = append(gone, index)
		}
	})
	for _, index := range gone {
		err = errors.Join(err, absent(o.Links.Delete(index)))
	}
	return err
}

func (p *Path) detach(index uint32, s side, o placed) error {
	if err := p.at.take(index, s, o); err != nil {
		return fmt.Errorf("detach program %d from link %d: %w", o.id, index, err)
	}
	return nil
}

// ours are the programs of ours at one side of a link.
func (p *Path) ours(index uint32, s side) ([]placed, error) {
	all, err := p.at.list(index, s)
	var out []placed
	for _, o := range all {
		about, err := p.program(o.id)
		if err != nil {
			return nil, err
		}
		if about.name != "" {
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
	name   string // one of ours, or ""
	tag    string // of its instructions
	tables map[ebpf.MapID]bool
}

func describe(prog *ebpf.Program) (program, error) {
	info, err := prog.Info()
	if err != nil {
		return program{}, fmt.Errorf("look at program %s: %w", prog, err)
	}
	about := program{tag: info.Tag, tables: map[ebpf.MapID]bool{}}
	if slices.Contains([]string{leaveName, enterName, landName, resolveName}, info.Name) {
		about.name = info.Name
	}
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
			ours, err := p.ours(index, ingress)
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
			f := plan.FastProgram{Link: name, Stale: len(ours) > 1 || !about.is(current[about.name]),
				Bridged: about.name == landName}
			if f.Bridged {
				answers, err := p.only(index, egress, current[resolveName])
				if err != nil {
					return err
				}
				f.Stale = f.Stale || !answers
			}
			if known, ok := senders[index]; about.name != enterName {
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

// only reports whether of all that are ours one program is at a side of a link, and no other.
func (p *Path) only(index uint32, s side, want program) (bool, error) {
	ours, err := p.ours(index, s)
	if err != nil || len(ours) != 1 {
		return false, err
	}
	about, err := p.program(ours[0].id)
	return about.name == want.name && about.is(want), err
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

// current are the programs of this version, by their names.
func (p *Path) current(o *kernelObjects) (map[string]program, error) {
	out := map[string]program{}
	for _, prog := range []*ebpf.Program{o.VethloomLeave, o.VethloomEnter, o.VethloomLand, o.VethloomResolve} {
		about, err := describe(prog)
		if err != nil {
			return nil, err
		}
		out[about.name] = about
	}
	return out, nil
}
