package subnet

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Directory is where a network's leases are in etcd. It holds no state of its own and
// may be used by several goroutines.
type Directory struct {
	client *clientv3.Client
	dir    string // without a slash at its end
}

// Open names a directory; nothing is asked of etcd.
func Open(client *clientv3.Client, dir string) (*Directory, error) {
	clean := path.Clean(dir)
	if clean == "/" || clean == "." || strings.HasPrefix(clean, "..") {
		return nil, fmt.Errorf("lease directory %q: want a path in etcd, such as /coreos.com/network", dir)
	}
	return &Directory{client: client, dir: clean}, nil
}

// Path is the directory's path in etcd.
func (d *Directory) Path() string { return d.dir }

func (d *Directory) prefix() string            { return d.dir + "/" }
func (d *Directory) configKey() string         { return d.dir + "/config" }
func (d *Directory) unpairedKey() string       { return d.dir + "/unpaired" }
func (d *Directory) subnetsPrefix() string     { return d.dir + "/subnets/" }
func (d *Directory) subnetKey(k string) string { return d.subnetsPrefix() + k }

// Config reads the directory's config. ErrNoConfig, ErrBadConfig.
func (d *Directory) Config(ctx context.Context) (Config, error) {
	r, err := d.client.Get(ctx, d.configKey())
	if err != nil {
		return Config{}, fmt.Errorf("read the config of %s: %w", d.dir, err)
	}
	return d.config(r.Kvs)
}

func (d *Directory) config(kvs []*mvccpb.KeyValue) (Config, error) {
	if len(kvs) == 0 {
		return Config{}, fmt.Errorf("%s: %w", d.dir, ErrNoConfig)
	}
	c, err := ParseConfig(kvs[0].Value)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", kvs[0].Key, err)
	}
	return c, nil
}

// CreateOp is the condition and the write that make the directory, for a transaction with
// more in it.
func (d *Directory) CreateOp(c Config) (clientv3.Cmp, clientv3.Op, error) {
	c, err := c.Complete()
	if err != nil {
		return clientv3.Cmp{}, clientv3.Op{}, err
	}
	b, err := c.JSON()
	if err != nil {
		return clientv3.Cmp{}, clientv3.Op{}, err
	}
	return clientv3.Compare(clientv3.CreateRevision(d.configKey()), "=", 0), clientv3.OpPut(d.configKey(), string(b)),
		nil
}

// RemoveOp is the write that removes everything in the directory.
func (d *Directory) RemoveOp() clientv3.Op {
	return clientv3.OpDelete(d.prefix(), clientv3.WithPrefix())
}

// Create makes the directory; ErrExists when it has a config, whatever that is.
func (d *Directory) Create(ctx context.Context, c Config) error {
	cmp, op, err := d.CreateOp(c)
	if err != nil {
		return err
	}
	r, err := d.client.Txn(ctx).If(cmp).Then(op).Commit()
	if err != nil {
		return fmt.Errorf("create the lease directory %s: %w", d.dir, err)
	}
	if !r.Succeeded {
		return fmt.Errorf("create the lease directory %s: its config %w", d.dir, ErrExists)
	}
	return nil
}

// Remove removes the directory with all its leases, at once. It is no error when there is none.
func (d *Directory) Remove(ctx context.Context) error {
	if _, err := d.client.Do(ctx, d.RemoveOp()); err != nil {
		return fmt.Errorf("remove the lease directory %s: %w", d.dir, err)
	}
	return nil
}

// Set is everything in a directory at one revision.
type Set struct {
	Revision int64
	Config   Config
	Leases   []Lease // by key
	Ignored  []Ignored
}

// List reads the directory. ErrNoConfig, ErrBadConfig.
func (d *Directory) List(ctx context.Context) (Set, error) {
	s, err := d.read(ctx)
	if err != nil {
		return Set{}, err
	}
	v := d.View()
	v.setConfig(s.config, nil)
	for _, kv := range s.kvs {
		v.put(strings.TrimPrefix(string(kv.Key), d.subnetsPrefix()), kv.Value, kv.CreateRevision, kv.ModRevision,
			kv.Lease)
	}
	v.evaluateAll()
	return Set{Revision: s.revision, Config: s.config, Leases: v.all(), Ignored: v.ignored()}, nil
}

// snapshot is a directory as one transaction read it.
type snapshot struct {
	revision int64
	config   Config
	bad      error // ErrNoConfig, ErrBadConfig: there is no config to go by
	kvs      []*mvccpb.KeyValue
	leases   []Lease // that can be read
	taken    []taken // every key that is in the way of a new one, readable or not
	guards   []clientv3.Cmp
}

// taken is a subnet that is not free.
type taken struct {
	Subnets
	key string
}

// read is readAny of a directory with a config.
func (d *Directory) read(ctx context.Context) (*snapshot, error) {
	s, err := d.readAny(ctx)
	if err != nil {
		return nil, err
	}
	return s, s.bad
}

func (d *Directory) readAny(ctx context.Context) (*snapshot, error) {
	r, err := d.client.Txn(ctx).Then(
		clientv3.OpGet(d.configKey()),
		clientv3.OpGet(d.unpairedKey()),
		clientv3.OpGet(d.subnetsPrefix(), clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return nil, fmt.Errorf("read the leases of %s: %w", d.dir, err)
	}
	configs, unpaired := r.Responses[0].GetResponseRange().Kvs, r.Responses[1].GetResponseRange().Kvs
	s := &snapshot{revision: r.Header.Revision, kvs: r.Responses[2].GetResponseRange().Kvs}
	s.config, s.bad = d.config(configs)
	s.guards = []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(d.configKey()), "=", modOf(configs)),
		clientv3.Compare(clientv3.ModRevision(d.unpairedKey()), "=", modOf(unpaired)),
	}
	for _, kv := range s.kvs {
		key := strings.TrimPrefix(string(kv.Key), d.subnetsPrefix())
		l, err := ParseLease(key, kv.Value)
		if err != nil {
			s.taken = append(s.taken, claimed(key))
			continue
		}
		l.Create, l.Mod, l.EtcdLease = kv.CreateRevision, kv.ModRevision, kv.Lease
		s.leases = append(s.leases, l)
		s.taken = append(s.taken, taken{l.Subnets(), key})
	}
	return s, nil
}

func modOf(kvs []*mvccpb.KeyValue) int64 {
	if len(kvs) == 0 {
		return 0
	}
	return kvs[0].ModRevision
}

// claimed is what a key that is no lease's keeps others from creating: see [Directory.free].
func claimed(key string) taken {
	t := taken{key: key}
	if s, err := ParseKey(key); err == nil { // its value was at fault
		t.Subnets = s
		return t
	}
	k4, _, _ := strings.Cut(key, "&")
	if p, err := parsePart(k4, true); err == nil {
		t.V4 = p
	}
	return t
}

// free are the conditions that nobody has the subnet: for one of IPv4 there is neither a key of it
// alone nor any of both families.
func (d *Directory) free(s Subnets) []clientv3.Cmp {
	absent := func(key string) clientv3.Cmp { return clientv3.Compare(clientv3.CreateRevision(key), "=", 0) }
	if !s.V4.IsValid() {
		return []clientv3.Cmp{absent(d.subnetKey(s.Key()))}
	}
	k := d.subnetKey(Subnets{V4: s.V4}.Key())
	return []clientv3.Cmp{absent(k), absent(k + "&").WithPrefix()}
}

// put is the write of a lease.
func (d *Directory) put(key string, a Attrs, etcdLease int64) (clientv3.Op, error) {
	b, err := json.Marshal(a)
	if err != nil {
		return clientv3.Op{}, fmt.Errorf("write the lease %s: %w", key, err)
	}
	var opts []clientv3.OpOption
	if etcdLease != 0 {
		opts = append(opts, clientv3.WithLease(clientv3.LeaseID(etcdLease)))
	}
	return clientv3.OpPut(d.subnetKey(key), string(b), opts...), nil
}

// unchanged is the condition that nobody wrote the lease since it was read.
func (d *Directory) unchanged(l Lease) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(d.subnetKey(l.Key)), "=", l.Mod)
}
