package control

import (
	"time"

	"github.com/vethloom/vethloom/plan"
)

// Version is that of the protocol. A resolver of another one gives its sockets back and ends.
const Version = 1

// ListenerFD is the descriptor of the control socket that the resolver is started with.
const ListenerFD = 3

// WaitFD is that of a pipe from which the resolver reads a byte before it does anything, when it is told to wait.
const WaitFD = 4

// MaxObjects is how many names a message has at most.
const MaxObjects = 1000

// Request is what netd asks. One field is set.
type Request struct {
	Hello *Hello           `json:"hello,omitempty"`
	Names *Names           `json:"names,omitempty"` // put and remove names: one change
	Serve *plan.NameServer `json:"serve,omitempty"` // with its sockets
	Stop  string           `json:"stop,omitempty"`  // [plan.NameServer.Key]
	// all that there is: messages with names, then those with a server each, then one that says Done
	List   bool    `json:"list,omitempty"`
	Quit   bool    `json:"quit,omitempty"` // end: it answers nothing any more
	Lookup *Lookup `json:"lookup,omitempty"`
	Watch  *Watch  `json:"watch,omitempty"` // answers until the connection ends
}

// Hello is the first message each way.
type Hello struct {
	Version int    `json:"version"`
	Build   string `json:"build"` // of netd, and of the resolver
}

// Names are zones and members that are there from now on, and the keys of those that go.
type Names struct {
	Zones       []plan.NameZone   `json:"zones,omitempty"`
	Members     []plan.NameMember `json:"members,omitempty"`
	GoneZones   []string          `json:"goneZones,omitempty"`
	GoneMembers []plan.NameMember `json:"goneMembers,omitempty"` // by their keys
}

// Lookup asks what a server would answer.
type Lookup struct {
	Server string `json:"server"` // key
	Name   string `json:"name"`
	Type   uint16 `json:"type"`
}

// Explanation is what would be answered, and why.
type Explanation struct {
	Rcode   string   `json:"rcode"`
	Answers []string `json:"answers,omitempty"` // as in a zone file
	Steps   []string `json:"steps,omitempty"`
}

// Watch asks for the queries to servers with these keys; none: to all.
type Watch struct {
	Servers []string `json:"servers,omitempty"`
}

// Query is one that was answered.
type Query struct {
	Time    time.Time     `json:"time"`
	Server  string        `json:"server"` // key
	Client  string        `json:"client"` // its address and port
	Name    string        `json:"name"`
	Type    string        `json:"type"`
	Rcode   string        `json:"rcode"`
	Answers []string      `json:"answers,omitempty"`
	Source  string        `json:"source"` // names, cache, or the upstream's address
	Took    time.Duration `json:"took"`
	Lost    int           `json:"lost,omitempty"` // entries before this one that did not fit
}

// Answer is what the resolver says to a request.
type Answer struct {
	Error   string           `json:"error,omitempty"`
	Hello   *Hello           `json:"hello,omitempty"`
	Names   *Names           `json:"names,omitempty"`
	Server  *plan.NameServer `json:"server,omitempty"` // with its sockets
	Done    bool             `json:"done,omitempty"`
	Explain *Explanation     `json:"explain,omitempty"`
	Query   *Query           `json:"query,omitempty"`
}
