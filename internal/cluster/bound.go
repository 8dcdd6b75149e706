package cluster

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/etcd"
)

// MaxNodes is how many nodes are heeded.
const MaxNodes = 5000

// limitOf bounds what of a class of records is heeded, that is, the memory that whoever writes to etcd can take here.
// It is some times what a cluster of a thousand nodes has. What is this node's own is never left out for
// that of others.
func limitOf(class cnm.Kind) etcd.Limit {
	switch class {
	case cnm.KindNetwork:
		return etcd.Limit{Keys: 2000, Bytes: 16 << 20, Value: 64 << 10}
	case record.KindNode:
		return etcd.Limit{Keys: MaxNodes, Bytes: 8 << 20, Value: 4 << 10}
	case record.KindAlive:
		return etcd.Limit{Keys: MaxNodes, Bytes: 4 << 20, Value: 1 << 10}
	case record.KindEndpoint:
		return etcd.Limit{Keys: 50000, Bytes: 64 << 20, Value: 8 << 10}
	case record.KindBlock:
		return etcd.Limit{Keys: 50000, Bytes: 16 << 20, Value: 1 << 10}
	case record.KindGuard:
		return etcd.Limit{Keys: 10, Bytes: 1 << 20, Value: 1 << 10}
	case dirLeases:
		return etcd.Limit{Keys: 20000, Bytes: 32 << 20, Value: 8 << 10}
	case classOwn:
		return etcd.Limit{Keys: 20000, Bytes: 64 << 20, Value: 8 << 10}
	case classSelf:
		return etcd.Limit{Keys: 2, Bytes: 1 << 20, Value: 4 << 10}
	}
	return etcd.Limit{} // of what is none of these, nothing is heeded
}

// Classes beside those of the kinds.
const (
	classOwn  cnm.Kind = "own"  // what says that this node has it
	classSelf cnm.Kind = "self" // this node, and its sign of life
)

// limit is what a record's number and size are bounded by.
func (m follower) limit(i *etcd.Item) (string, etcd.Limit) {
	kind, id, _ := strings.Cut(i.Key[len(m.cfg.Prefix)+1:], "/")
	class := cnm.Kind(kind)
	switch {
	case id == m.id && (class == record.KindNode || class == record.KindAlive):
		class = classSelf
	case class != cnm.KindNetwork && bytes.Contains(i.Value, []byte(m.id)):
		class = classOwn
	}
	return string(class), limitOf(class)
}

// leaseLimit is that of a directory which is followed by itself.
func leaseLimit(*etcd.Item) (string, etcd.Limit) { return string(dirLeases), limitOf(dirLeases) }

// beyond tells of the records that are more than the limits. The caller holds mu.
func (m *core) beyond() (out []string) {
	for _, class := range slices.Sorted(maps.Keys(m.excess)) {
		if l := limitOf(cnm.Kind(class)); l.Keys > 0 {
			out = append(out, fmt.Sprintf("etcd has %d more records of kind %s than are heeded, at most %d and %d "+
				"MiB: the youngest are ignored; remove those that nobody needs (etcdctl get --prefix --keys-only "+
				"%s/%[2]s/)",
				m.excess[class], class, l.Keys, l.Bytes>>20, m.cfg.Prefix))
		}
	}
	return out
}
