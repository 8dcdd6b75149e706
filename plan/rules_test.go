package plan

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCanonicalPart(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.0.0/16":             "10.1.0.0/16",
		"10.1.2.3/16":             "10.1.0.0/16",
		"127.0.0.1/32":            "127.0.0.1",
		"::1/128":                 "::1",
		"FD00:0:0::1":             "fd00::1",
		"fd00::-fd00::ffff":       "fd00::/112",
		"0.0.0.0-255.255.255.255": "0.0.0.0/0",
		"10.0.0.1-10.0.0.2":       "10.0.0.1-10.0.0.2",
		"10.0.0.0-10.0.0.1":       "10.0.0.0/31",
		"10.0.0.1-10.0.0.1":       "10.0.0.1",
		"8000-8010":               "8000-8010",
		"80-80":                   "80",
		"vlb-3f2a":                "vlb-3f2a",
		"1-x":                     "1-x",
		"02:42:0a:01:00:02":       "02:42:0a:01:00:02",
		"jump guard":              "jump guard",
		"10.0.0.0/33":             "10.0.0.0/33",
		"10.0.0.1-fd00::1":        "10.0.0.1-fd00::1",
		"":                        "",
	} {
		if got := CanonicalPart(in); got != want {
			t.Errorf("CanonicalPart(%q) = %q, want %q", in, got, want)
		}
		if got := CanonicalPart(want); got != want {
			t.Errorf("CanonicalPart(%q) = %q: not stable", want, got)
		}
	}
}

func TestRuleObjectTexts(t *testing.T) {
	base := Base{Type: "nat", Hook: "output", Priority: -100, Policy: "accept"}
	rule := Rule{
		Match: []Match{{Fields: []Field{CTStatus}, Not: true, Values: []string{"dnat"}},
			{Fields: []Field{IIfName, OIfName}, Set: "same"}},
		Counter: true, Verdict: DNAT, Addr: "ip6", Target: "m", Key: []Field{IP6Daddr, DPort},
	}
	for _, c := range []struct {
		object    Object
		key, text string
	}{
		{
			Chain{Family: Inet, Name: "output", Base: base, Rules: []Rule{rule, {Verdict: Accept}}},
			"inet output",
			"inet chain output { type nat hook output priority -100; policy accept; " +
				"ct status ! dnat iifname . oifname @same counter dnat ip6 to ip6 daddr . th dport map @m; accept; }",
		},
		{Chain{Family: BridgeTable, Name: "empty"}, "bridge empty", "bridge chain empty { }"},
		{
			Set{Family: Inet, Name: "m", KeyTypes: []DataType{TypeIPv6, TypePort}, Data: []DataType{TypeIPv6},
				Interval: true},
			"inet m", "inet map m { type ipv6_addr . inet_service : ipv6_addr; flags interval; }",
		},
		{
			Element{Family: Inet, Set: "m", Keys: []string{"::1/128", "1-9"}, Data: []string{"fd00::2"},
				Owner: "endpoint/1"},
			"inet m ::1 . 1-9", `inet element m { ::1 . 1-9 comment "endpoint/1" : fd00::2 }`,
		},
		{Element{Family: Inet, Set: "s", Keys: []string{"lo"}}, "inet s lo", "inet element s { lo }"},
	} {
		if got := c.object.Key(); got != c.key {
			t.Errorf("key %q, want %q", got, c.key)
		}
		if got := c.object.String(); got != c.text {
			t.Errorf("text\n%s, want\n%s", got, c.text)
		}
	}
}

func TestValidate(t *testing.T) {
	chain := func(r Rule) Chain { return Chain{Family: Inet, Name: "c", Rules: []Rule{r}} }
	match := func(m Match) Chain { return chain(Rule{Match: []Match{m}, Verdict: Accept}) }
	for want, v := range map[string]interface{ Validate() error }{
		`family "ip"`:      Chain{Family: "ip", Name: "c"},
		`chain "": a name`: Chain{Family: Inet},
		`chain "1a"`:       Chain{Family: Inet, Name: "1a"},
		`hook "ingress"`: Chain{Family: Inet, Name: "c", Base: Base{Type: "filter", Hook: "ingress",
			Policy: "drop"}},
		`policy ""`:                Chain{Family: Inet, Name: "c", Base: Base{Type: "filter", Hook: "input"}},
		"verdict is empty":         chain(Rule{}),
		`verdict "unknown"`:        chain(Rule{Verdict: Unknown}),
		"takes no target":          chain(Rule{Verdict: Drop, Target: "x"}),
		`target ""`:                chain(Rule{Verdict: Jump}),
		"no field is named":        chain(Rule{Verdict: VMap, Target: "m"}),
		`addr ""`:                  chain(Rule{Verdict: DNAT, Target: "m", Key: []Field{DPort}}),
		"needs the bridge family":  match(Match{Fields: []Field{EtherSaddr}, Set: "s"}),
		`field "tcp window"`:       match(Match{Fields: []Field{"tcp window"}, Set: "s"}),
		"exclude each other":       match(Match{Fields: []Field{DPort}, Set: "s", Values: []string{"1"}}),
		"values and set are empty": match(Match{Fields: []Field{DPort}}),
		"use a named set":          match(Match{Fields: []Field{DPort, SPort}, Values: []string{"1"}}),
		"is not one word":          match(Match{Fields: []Field{DPort}, Values: []string{"1 accept"}}),
		"at most 240 fit": match(
			Match{Fields: []Field{DPort}, Values: strings.Fields(strings.Repeat("12345 ", 40))}),
		`set "a b"`:           Set{Family: Inet, Name: "a b", KeyTypes: []DataType{TypePort}},
		"key types are empty": Set{Family: Inet, Name: "s"},
		`key type "mark"`:     Set{Family: Inet, Name: "s", KeyTypes: []DataType{"mark"}},
		"can only be data":    Set{Family: Inet, Name: "s", KeyTypes: []DataType{TypeVerdict}},
		"cannot be concatenated": Set{Family: Inet, Name: "s", KeyTypes: []DataType{TypePort},
			Data: []DataType{TypePort, TypeVerdict}},
		"at most 64": Set{Family: Inet, Name: "s", KeyTypes: []DataType{TypeIPv6, TypeIPv6, TypeIPv6,
			TypeIPv6, TypePort}},
	} {
		if err := v.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	set := Set{Family: Inet, Name: "s", KeyTypes: []DataType{TypePort}}
	if err := set.Validate(); err != nil {
		t.Error(err)
	}
	if err := (Element{Family: Inet, Set: "s", Keys: []string{"1"}, Owner: "network/1"}).Validate(set); err != nil {
		t.Error(err)
	}
	for want, e := range map[string]Element{
		"keys: 2 parts, the set has 1": {Family: Inet, Keys: []string{"1", "2"}},
		"data: 1 parts, the set has 0": {Family: Inet, Keys: []string{"1"}, Data: []string{"2"}},
		"scope has 121 bytes":          {Family: Inet, Keys: []string{"1"}, Owner: Owner(strings.Repeat("s", 121))},
	} {
		if err := e.Validate(set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

// drawRule draws a rule that is valid in the bridge family.
func drawRule(t *rapid.T) Rule {
	someFields := rapid.SliceOfN(rapid.SampledFrom(fields[:]), 1, 3)
	names := rapid.StringMatching(`[a-z][a-z0-9_.-]{0,6}`)
	r := Rule{Counter: rapid.Bool().Draw(t, "counter")}
	for range rapid.IntRange(0, 2).Draw(t, "matches") {
		m := Match{Not: rapid.Bool().Draw(t, "not")}
		if rapid.Bool().Draw(t, "set") {
			m.Fields, m.Set = someFields.Draw(t, "fields"), names.Draw(t, "name")
		} else {
			m.Fields = someFields.Draw(t, "fields")[:1]
			m.Values = rapid.SliceOfN(rapid.StringMatching(`[a-z0-9:/*-][a-z0-9:./*-]{0,8}`), 1, 3).Draw(t, "values")
		}
		r.Match = append(r.Match, m)
	}
	verdicts := []Verdict{Accept, Drop, Return, Jump, VMap, Masquerade, DNAT, SNAT}
	r.Verdict = rapid.SampledFrom(verdicts).Draw(t, "verdict")
	switch r.Verdict {
	case Jump:
		r.Target = names.Draw(t, "target")
	case DNAT, SNAT:
		r.Target, r.Key, r.Addr = names.Draw(t, "target"), someFields.Draw(t, "key"), "ip6"
	case VMap:
		r.Target, r.Key = names.Draw(t, "target"), someFields.Draw(t, "key")
	}
	return r
}

func TestParseRuleInvertsString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawRule(t)
		if err := want.Validate(BridgeTable); err != nil {
			t.Fatal(err)
		}
		got, err := ParseRule(want.String())
		if err != nil {
			t.Fatal(err)
		}
		if a, b := want.String(), got.String(); a != b {
			t.Fatalf("%q came back as %q", a, b)
		}
		if err := got.Validate(BridgeTable); err != nil {
			t.Fatalf("%q came back invalid: %v", want, err)
		}
	})
}

func FuzzParseRule(f *testing.F) {
	for _, text := range []string{
		"", "accept", "counter", "counter drop", "jump x", "iifname vmap @m", "counter iifname vmap @m",
		"ct status ! dnat accept",
		"th dport { 1, 2-3 } dnat ip to ip daddr . th dport map @m", "iifname . oifname != @s return",
		"ct state new,related masquerade",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text)
		if err == nil && r.String() != text {
			t.Errorf("%q parsed as %q", text, r)
		}
	})
}
