package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const manifests = "../../packaging/kubernetes"

// cluster is what has been applied.
type cluster struct {
	names    map[string]bool // KIND NAME
	accounts []corev1.ServiceAccount
	configs  map[string]map[string]string
	sets     []appsv1.DaemonSet
	roles    []rbacv1.ClusterRole
	bindings []rbacv1.ClusterRoleBinding
}

func applied(t *testing.T, paths ...string) *cluster {
	t.Helper()
	c := &cluster{names: map[string]bool{}, configs: map[string]map[string]string{}}
	for _, path := range paths {
		objects, err := Read(filepath.Join(manifests, path))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			c.add(t, o)
		}
	}
	return c
}

func (c *cluster) add(t *testing.T, o runtime.Object) {
	t.Helper()
	switch o := o.(type) {
	case *corev1.Namespace:
		c.names["Namespace "+o.Name] = true
	case *corev1.ServiceAccount:
		c.names["ServiceAccount "+o.Namespace+"/"+o.Name] = true
		c.accounts = append(c.accounts, *o)
	case *corev1.ConfigMap:
		c.names["ConfigMap "+o.Namespace+"/"+o.Name] = true
		c.configs[o.Name] = o.Data
	case *appsv1.DaemonSet:
		c.sets = append(c.sets, *o)
	case *rbacv1.ClusterRole:
		c.names["ClusterRole "+o.Name] = true
		c.roles = append(c.roles, *o)
	case *rbacv1.ClusterRoleBinding:
		c.bindings = append(c.bindings, *o)
	default:
		t.Fatalf("%T: say here what it refers to", o)
	}
}

// What one object names another by is there, and nobody has more than it needs.
func TestManifests(t *testing.T) {
	for _, set := range [][]string{{"overlay"}, {"host-gw"}, {"pod-cidr"}, {"overlay", "removal.yaml"},
		{"pod-cidr", "removal.yaml"}} {
		t.Run(strings.Join(set, "+"), func(t *testing.T) {
			c := applied(t, set...)
			if len(c.sets) != len(set) {
				t.Fatalf("%d DaemonSets, want %d", len(c.sets), len(set))
			}
			for _, d := range c.sets {
				c.checkSet(t, d)
			}
			for _, key := range []string{"netd.yaml", "cni.conflist"} {
				if c.configs["vethloom"][key] == "" {
					t.Errorf("ConfigMap vethloom has no %s", key)
				}
			}
			c.checkRights(t, set[0] == "pod-cidr")
		})
	}
}

func (c *cluster) checkSet(t *testing.T, d appsv1.DaemonSet) {
	t.Helper()
	p := d.Spec.Template.Spec
	if !c.names["Namespace "+d.Namespace] || !c.names["ServiceAccount "+d.Namespace+"/"+p.ServiceAccountName] {
		t.Errorf("%s: namespace %s or account %s is not there", d.Name, d.Namespace, p.ServiceAccountName)
	}
	if !p.HostNetwork || p.DNSPolicy != corev1.DNSDefault || p.PriorityClassName != "system-node-critical" ||
		p.HostPID || p.HostIPC {
		t.Errorf("%s: hostNetwork %v, dnsPolicy %s, priority %s, hostPID %v", d.Name, p.HostNetwork, p.DNSPolicy,
			p.PriorityClassName, p.HostPID)
	}
	if len(p.Tolerations) != 1 || p.Tolerations[0].Operator != corev1.TolerationOpExists || p.Tolerations[0].Key != "" {
		t.Errorf("%s: tolerations %v", d.Name, p.Tolerations)
	}
	used := map[string]bool{}
	for _, k := range slices.Concat(p.InitContainers, p.Containers) {
		s := k.SecurityContext
		// The programs that change the network are netd, and install.sh where it takes netd's things down.
		want := k.Name == "netd" || k.Name == "remove"
		if got := s.Privileged != nil && *s.Privileged; got != want {
			t.Errorf("%s: container %s: privileged is %v", d.Name, k.Name, got)
		}
		if !want && (s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"})) {
			t.Errorf("%s: container %s keeps capabilities", d.Name, k.Name)
		}
		for _, m := range k.VolumeMounts {
			used[m.Name] = true
			if m.MountPropagation != nil && !want {
				t.Errorf("%s: container %s: mounts of %s propagate", d.Name, k.Name, m.Name)
			}
		}
	}
	for _, v := range p.Volumes {
		if !used[v.Name] {
			t.Errorf("%s: nothing uses volume %s", d.Name, v.Name)
		}
		if v.ConfigMap != nil && !c.names["ConfigMap "+d.Namespace+"/"+v.ConfigMap.Name] {
			t.Errorf("%s: ConfigMap %s is not there", d.Name, v.ConfigMap.Name)
		}
	}
}

// checkRights finds who may ask the API server for what.
func (c *cluster) checkRights(t *testing.T, readsNode bool) {
	t.Helper()
	for _, a := range c.accounts {
		if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
			t.Errorf("pods of account %s get a token", a.Name)
		}
	}
	for _, d := range c.sets {
		p := d.Spec.Template.Spec
		if p.AutomountServiceAccountToken == nil || *p.AutomountServiceAccountToken {
			t.Errorf("%s: its pods get a token", d.Name)
		}
		for _, k := range p.Containers {
			for _, m := range k.VolumeMounts {
				if m.Name == "account" {
					t.Errorf("%s: container %s has the token of the install step", d.Name, k.Name)
				}
			}
		}
	}
	if !readsNode {
		if len(c.roles)+len(c.bindings) != 0 {
			t.Errorf("roles %v, bindings %v, and netd asks for nothing", c.roles, c.bindings)
		}
		return
	}
	if len(c.roles) != 1 || len(c.roles[0].Rules) != 1 || len(c.bindings) != 1 {
		t.Fatalf("roles %v, bindings %v, want one rule", c.roles, c.bindings)
	}
	r := c.roles[0].Rules[0]
	if !slices.Equal(r.Verbs, []string{"get"}) || !slices.Equal(r.Resources, []string{"nodes"}) {
		t.Errorf("rule %v, want get nodes", r)
	}
	b := c.bindings[0]
	if !c.names["ClusterRole "+b.RoleRef.Name] {
		t.Errorf("role %s is not there", b.RoleRef.Name)
	}
	for _, s := range b.Subjects {
		if !c.names[s.Kind+" "+s.Namespace+"/"+s.Name] {
			t.Errorf("%s %s/%s is not there", s.Kind, s.Namespace, s.Name)
		}
	}
}

// What is not right about a manifest is found.
func TestMistakesAreFound(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(manifests, "removal.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, now, says string }{
		{"hostNetwork: true", "hostNetworks: true", `unknown field "spec.template.spec.hostNetworks"`},
		{"hostNetwork: true", "hostNetwork: yes please", "hostNetwork"},
		{"hostNetwork: true", "hostNetwork: true\n      hostNetwork: true", `already set`},
		{"{name: state, mountPath: /var/lib}", "{name: stat, mountPath: /var/lib}", `"stat"`},
		{"privileged: true", "privileged: false", "Bidirectional"},
		{"component: removal\n  updateStrategy", "component: other\n  updateStrategy", "selector"},
		{"fieldPath: status.hostIP", "fieldPath: spec.podCIDR", `"spec.podCIDR"`},
	} {
		path := filepath.Join(t.TempDir(), "removal.yaml")
		wrong := strings.Replace(string(text), c.old, c.now, 1)
		if wrong == string(text) {
			t.Fatalf("%q is not in the manifest", c.old)
		}
		if err := os.WriteFile(path, []byte(wrong), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.now, err, c.says)
		}
	}
}
