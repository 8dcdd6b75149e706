package kern

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// Where a process cannot tell its threads, as in a PID namespace of its own, its transactions are known by their
// socket, and those of others are still others'.
func TestTransactionsAreKnownByTheirSocket(t *testing.T) {
	env := kerntest.New(t)
	k := openHere(t, env)
	c, err := listen(env.NetNS(), unix.NETLINK_NETFILTER, noticeBuffer, nfnlGroupTables)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	g := genFilter{table: plan.Table, port: k.rules.Port()}
	// next is the judgement of the next transaction, of a thread that is none of this process.
	next := func() bool {
		t.Helper()
		for {
			msgs, err := c.Receive()
			if err != nil {
				t.Fatal(err)
			}
			foreign, end := false, false
			for _, m := range msgs {
				if uint16(m.Header.Type)&0xff == nfMsgNewGen {
					strangeThread(t, m)
					end = true
				}
				foreign = g.foreign(m) || foreign
			}
			if end {
				return foreign
			}
		}
	}
	set := plan.Op{Verb: plan.Create, Object: plan.Set{Family: plan.Inet, Name: "a",
		KeyTypes: []plan.DataType{plan.TypeIPv4}}}
	if err := k.rules.Apply(t.Context(), []plan.Op{set}); err != nil {
		t.Fatal(err)
	}
	if next() {
		t.Error("our own transaction is taken for another's")
	}
	env.Sh("nft add element inet vethloom a '{ 192.0.2.1 }'")
	if !next() {
		t.Error("another's transaction is taken for ours")
	}
	env.Sh("nft 'add table inet their; add set inet their s { type ifname; }'")
	next()
	for element, ours := range map[string]bool{"vle-12345678": true, "eth7": false} {
		for _, verb := range []string{"add", "delete"} {
			env.Sh(fmt.Sprintf("nft %s element inet their s '{ %s }'", verb, element))
			if next() != ours {
				t.Errorf("%s %s in a set of others: the transaction is noticed as %v", verb, element, !ours)
			}
		}
	}
}

// strangeThread replaces the thread that asked for a generation.
func strangeThread(t *testing.T, m netlink.Message) {
	t.Helper()
	found := false
	err := attr.Each(m.Data[nfgenSize:], func(kind uint16, v []byte) error {
		if kind == nftaGenPID && len(v) == 4 {
			binary.BigEndian.PutUint32(v, 1<<30)
			found = true
		}
		return nil
	})
	if err != nil || !found {
		t.Fatalf("a generation without a thread: %v", err)
	}
}
