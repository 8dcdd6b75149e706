package cnm

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// PortTakenError tells which host port could not be held. It unwraps to
// [ErrPortTaken]. A [Fabric] that returns it, rather than the bare sentinel, lets the
// controller see at once whether another dynamic port would help.
type PortTakenError struct {
	Proto plan.L4
	Addr  netip.Addr // the zero value: unknown, or every address
	Port  uint16
	By    string // who has it, when known
	Cause error  // optional
}

// Error names the port and who has it.
func (e *PortTakenError) Error() string {
	addr := "*"
	if e.Addr.IsValid() {
		addr = e.Addr.String()
	}
	by := e.By
	if by == "" {
		by = "another process"
	}
	return fmt.Sprintf("host port %s/%s: taken by %s; "+
		"publish another host port or leave it out to have a free one picked",
		hostPort(addr, strconv.Itoa(int(e.Port))), e.Proto, by)
}

// Unwrap returns [ErrPortTaken] and the cause.
func (e *PortTakenError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrPortTaken}
	}
	return []error{ErrPortTaken, e.Cause}
}

// hostPort is "host:port", with brackets around an IPv6 address.
func hostPort(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}
