package shim

// Options are what a user asks of a container that net-shim does as asked. They are part of the
// request, of the stored record and of the bundle: an option is a field here, and a line of the
// renderer in package box.
type Options struct {
	Memory     int64             `json:"memory,omitempty"`    // bytes; 0: no limit
	NanoCPUs   int64             `json:"nanoCPUs,omitempty"`  // 1e9 is one CPU; 0: no limit
	PidsLimit  int64             `json:"pidsLimit,omitempty"` // 0: no limit
	Sysctls    map[string]string `json:"sysctls,omitempty"`   // of the container's namespaces, by name with dots
	Privileged bool              `json:"privileged,omitempty"`
	ReadOnly   bool              `json:"readOnly,omitempty"` // the root filesystem
}
