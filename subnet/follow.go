package subnet

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/internal/etcd"
)

// Ignored is a key below subnets that no node may use.
type Ignored struct {
	Key    string
	Reason string
	Holder string // key of the older lease that it overlaps; "" for another reason
}

// Update is what became of a directory.
type Update struct {
	Revision int64  // of etcd
	Cluster  uint64 // ID of etcd's cluster
	// Whole says that Changed has every lease there is: the first update, and those after etcd could not be followed.
	Whole   bool
	Changed []Lease // new, or other than before
	Removed []Lease // as they were, among them those that are ignored from now on
	Ignored []Ignored

	Config        Config // the last that could be read; the zero value before there was any
	ConfigErr     error  // ErrNoConfig, ErrBadConfig: what is there now cannot be used
	ConfigChanged bool   // either of them, since the update before
}

// Follow hands on every lease, then what changes, until f returns an error or the context is done. No
// change is missed, whatever becomes of etcd: see [etcd.Follow]. Keys that are no lease, leases outside the
// network, and those that overlap an older one are left out and listed as ignored. A
// config that is garbage or gone changes nothing about the leases; the last good one stays in use.
func (d *Directory) Follow(ctx context.Context, f func(Update) error, opts ...etcd.FollowOption) error {
	v := d.View()
	return etcd.Follow(ctx, d.client, d.prefix(), func(e etcd.Update) error {
		if u, ok := v.Apply(e); ok {
			return f(u)
		}
		return nil
	}, opts...)
}

// View is a directory as its keys say, and which of them count. It is for who follows more of etcd than the
// directory; others have [Directory.Follow]. It is not safe for concurrent use.
type View struct {
	dir       *Directory
	config    Config
	hasConfig bool
	configErr error

	leases map[string]*Lease         // by key, all that can be read; never changed in place
	bad    map[string]string         // reasons of those that cannot
	at     map[netip.Prefix][]string // keys, mostly one
	bits   map[familyBits]int        // how many leases have a subnet of a length

	shown   map[string]*Lease
	dropped map[string]Ignored

	ignoredChanged bool
}

type familyBits struct {
	is4  bool
	bits int
}

// View is that of an empty directory.
func (d *Directory) View() *View {
	return &View{
		dir: d, configErr: ErrNoConfig,
		leases: map[string]*Lease{}, bad: map[string]string{},
		at: map[netip.Prefix][]string{}, bits: map[familyBits]int{},
		shown: map[string]*Lease{}, dropped: map[string]Ignored{},
	}
}

// Apply takes over what became of keys, and tells whether that changes anything about the directory. Keys of
// others are left alone. The first update is to be Whole.
func (v *View) Apply(e etcd.Update) (Update, bool) {
	u := Update{Revision: e.Revision, Cluster: e.Cluster, Whole: e.Whole}
	v.ignoredChanged = false
	touched := map[string]struct{}{}
	for _, c := range e.Changes {
		if c.Key() == v.dir.configKey() {
			u.ConfigChanged = v.readConfig(c.New) || u.ConfigChanged
		}
		key, ok := strings.CutPrefix(c.Key(), v.dir.subnetsPrefix())
		if !ok {
			continue
		}
		v.touch(touched, key)
		if v.remove(key); c.New != nil {
			v.put(key, c.New.Value, c.New.Create, c.New.Mod, c.New.Lease)
		}
		v.touch(touched, key)
	}
	if u.ConfigChanged {
		v.touchAll(touched)
	}
	for _, key := range slices.Sorted(maps.Keys(touched)) {
		v.evaluate(key, &u)
	}
	if e.Whole {
		u.Changed = v.all()
	}
	u.Config, u.ConfigErr, u.Ignored = v.config, v.configErr, v.ignored()
	return u, u.Whole || len(u.Changed) > 0 || len(u.Removed) > 0 || u.ConfigChanged || v.ignoredChanged
}

// readConfig reports whether anything about the config is other than before.
func (v *View) readConfig(i *etcd.Item) bool {
	if i == nil {
		v.configErr = fmt.Errorf("%s: %w", v.dir.dir, ErrNoConfig)
		return true
	}
	c, err := ParseConfig(i.Value)
	if err != nil {
		err = fmt.Errorf("%s: %w", i.Key, err)
	}
	v.setConfig(c, err)
	return true
}

func (v *View) setConfig(c Config, err error) {
	if v.configErr = err; err == nil {
		v.config, v.hasConfig = c, true
	}
}

func (v *View) put(key string, value []byte, create, mod, etcdLease int64) {
	l, err := ParseLease(key, value)
	if err != nil {
		v.bad[key] = err.Error()
		return
	}
	l.Create, l.Mod, l.EtcdLease = create, mod, etcdLease
	v.leases[key] = &l
	for _, p := range l.prefixes() {
		v.at[p] = append(v.at[p], key)
		v.bits[familyBits{p.Addr().Is4(), p.Bits()}]++
	}
}

func (v *View) remove(key string) {
	delete(v.bad, key)
	l, ok := v.leases[key]
	if !ok {
		return
	}
	delete(v.leases, key)
	for _, p := range l.prefixes() {
		if v.at[p] = slices.DeleteFunc(v.at[p], func(k string) bool { return k == key }); len(v.at[p]) == 0 {
			delete(v.at, p)
		}
		if f := (familyBits{p.Addr().Is4(), p.Bits()}); v.bits[f] == 1 {
			delete(v.bits, f)
		} else {
			v.bits[f]--
		}
	}
}

func (l Lease) prefixes() []netip.Prefix {
	var ps []netip.Prefix
	for _, p := range []netip.Prefix{l.Subnet, l.Subnet6} {
		if p.IsValid() {
			ps = append(ps, p)
		}
	}
	return ps
}

// touch marks a key and all that overlap it.
func (v *View) touch(touched map[string]struct{}, key string) {
	touched[key] = struct{}{}
	if l, ok := v.leases[key]; ok {
		v.overlaps(l, func(o *Lease) { touched[o.Key] = struct{}{} })
	}
}

func (v *View) touchAll(touched map[string]struct{}) {
	for key := range v.leases {
		touched[key] = struct{}{}
	}
}

// overlaps visits the other leases that overlap one. As long as all are of one length that takes one look.
func (v *View) overlaps(l *Lease, visit func(*Lease)) {
	for _, p := range l.prefixes() {
		longer := false
		for f := range v.bits {
			if f.is4 != p.Addr().Is4() {
				continue
			}
			if f.bits > p.Bits() {
				longer = true
				continue
			}
			for _, key := range v.at[netip.PrefixFrom(p.Addr(), f.bits).Masked()] {
				if key != l.Key {
					visit(v.leases[key])
				}
			}
		}
		if !longer {
			continue
		}
		for q, keys := range v.at {
			if q.Bits() > p.Bits() && p.Contains(q.Addr()) {
				for _, key := range keys {
					visit(v.leases[key])
				}
			}
		}
	}
}

// why says what is wrong with a key, if anything.
func (v *View) why(key string) (Ignored, bool) {
	if reason, bad := v.bad[key]; bad {
		return Ignored{Key: key, Reason: reason}, true
	}
	l := v.leases[key]
	if !v.hasConfig {
		return Ignored{Key: key, Reason: "nothing says what network it is of"}, true
	}
	if reason := v.config.check(l.Subnets()); reason != "" {
		return Ignored{Key: key, Reason: reason}, true
	}
	older := l
	v.overlaps(l, func(o *Lease) {
		if o.olderThan(*older) && v.config.check(o.Subnets()) == "" {
			older = o
		}
	})
	if older.Key != key {
		return Ignored{Key: key, Reason: fmt.Sprintf("%s has %s, and had it first", older.holder(), older.Key),
			Holder: older.Key}, true
	}
	return Ignored{}, false
}

// evaluate compares what a key is now with what was last handed on.
func (v *View) evaluate(key string, u *Update) {
	l, isLease := v.leases[key]
	_, isBad := v.bad[key]
	was, shown := v.shown[key]
	ig, ignore := Ignored{}, false
	if isLease || isBad {
		ig, ignore = v.why(key)
	}
	if old, had := v.dropped[key]; had != ignore || old != ig {
		v.ignoredChanged = true
		if delete(v.dropped, key); ignore {
			v.dropped[key] = ig
		}
	}
	switch usable := isLease && !ignore; {
	case usable && (!shown || was.Mod != l.Mod || was.Create != l.Create || was.EtcdLease != l.EtcdLease ||
		!sameAttrs(*was, *l)):
		v.shown[key] = l
		u.Changed = append(u.Changed, *l)
	case !usable && shown:
		delete(v.shown, key)
		u.Removed = append(u.Removed, *was)
	}
}

func sameAttrs(a, b Lease) bool {
	same, err := a.Attrs.equal(b.Attrs)
	return err == nil && same
}

func (v *View) evaluateAll() {
	var u Update
	for key := range v.leases {
		v.evaluate(key, &u)
	}
	for key := range v.bad {
		v.evaluate(key, &u)
	}
}

func (v *View) all() []Lease {
	out := make([]Lease, 0, len(v.shown))
	for _, key := range slices.Sorted(maps.Keys(v.shown)) {
		out = append(out, *v.shown[key])
	}
	return out
}

func (v *View) ignored() []Ignored {
	return slices.SortedFunc(maps.Values(v.dropped), func(a, b Ignored) int { return strings.Compare(a.Key, b.Key) })
}
