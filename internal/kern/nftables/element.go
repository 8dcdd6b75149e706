package nftables

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
)

// Element flags and attributes of linux/netfilter/nf_tables.h that x/sys lacks.
const (
	nftSetConcat    = 0x80
	nftElemCatchall = 2
	nftaElemKeyEnd  = 10
	commentTag      = 0 // of the comment in an element's userdata, as nft(8) has it
	maxElement      = 512
	maxNest         = 60000 // bytes of a nested attribute; its length has 16 bits
	wildcard        = "*"
)

// Verdict codes, linux/netfilter/nf_tables.h "enum nft_verdicts" and linux/netfilter.h.
const (
	codeDrop     = 0
	codeAccept   = 1
	codeContinue = -1
	codeJump     = -3
	codeGoto     = -4
	codeReturn   = -5
)

// encodeElement appends the element of set s to a list of elements: one entry,
// or two for an interval of a set with a single key part.
func encodeElement(w *wire, s plan.Set, e plan.Element, withData bool) error {
	if len(e.Keys) == 1 && e.Keys[0] == wildcard {
		return appendEntry(w, entry{flags: nftElemCatchall}, s, e, withData)
	}
	if err := e.Validate(s); err != nil {
		return err
	}
	key := span{make([]byte, 0, 64), make([]byte, 0, 64)}
	for i, t := range s.KeyTypes {
		part, err := encodePart(t, e.Keys[i])
		if err != nil {
			return fmt.Errorf("key part %d: %w", i+1, err)
		}
		if !s.Interval && !bytes.Equal(part.from, part.to) {
			return fmt.Errorf("key part %d: %q is a range, the set %s holds single values", i+1, e.Keys[i], s.Name)
		}
		key.from, key.to = append(key.from, part.from...), append(key.to, part.to...)
		if len(s.KeyTypes) > 1 {
			key.from, key.to = padWord(key.from), padWord(key.to)
		}
	}
	switch {
	case s.Interval && len(s.KeyTypes) > 1:
		return appendEntry(w, entry{key: key.from, end: key.to}, s, e, withData)
	case s.Interval:
		if err := appendEntry(w, entry{key: key.from}, s, e, withData); err != nil {
			return err
		}
		// The end of an interval is the first key after it; at the top there is none.
		if next, ok := increment(key.to); ok {
			return appendEntry(w, entry{key: next, flags: unix.NFT_SET_ELEM_INTERVAL_END}, s, plan.Element{}, false)
		}
		return nil
	}
	return appendEntry(w, entry{key: key.from}, s, e, withData)
}

func padWord(b []byte) []byte {
	for len(b)%wordSize != 0 {
		b = append(b, 0)
	}
	return b
}

// increment returns b+1 as a big-endian number; ok is false on overflow.
func increment(b []byte) (next []byte, ok bool) {
	next = bytes.Clone(b)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next, true
		}
	}
	return nil, false
}

// decrement returns b-1 as a big-endian number; b is not zero.
func decrement(b []byte) []byte {
	prev := bytes.Clone(b)
	for i := len(prev) - 1; i >= 0; i-- {
		prev[i]--
		if prev[i] != 0xff {
			break
		}
	}
	return prev
}

// entry is one element as the kernel has it.
type entry struct {
	key, end []byte
	flags    uint32
	data     []byte
	verdict  string
	comment  string
}

func appendEntry(w *wire, en entry, s plan.Set, e plan.Element, withData bool) error {
	item := w.Open(unix.NFTA_LIST_ELEM)
	if en.flags != 0 {
		w.BE32(unix.NFTA_SET_ELEM_FLAGS, en.flags)
	}
	if en.key != nil {
		appendValue(w, unix.NFTA_SET_ELEM_KEY, en.key)
	}
	if en.end != nil {
		appendValue(w, nftaElemKeyEnd, en.end)
	}
	if withData && len(s.Data) > 0 {
		if err := appendData(w, s, e); err != nil {
			return err
		}
	}
	if withData && e.Owner != "" {
		w.Bytes(unix.NFTA_SET_ELEM_USERDATA, encodeComment(string(e.Owner)))
	}
	w.Close(item)
	return nil
}

func appendValue(w *wire, typ uint16, value []byte) {
	at := w.Open(typ)
	w.Bytes(unix.NFTA_DATA_VALUE, value)
	w.Close(at)
}

func appendData(w *wire, s plan.Set, e plan.Element) error {
	if len(s.Data) != len(e.Data) {
		return fmt.Errorf("data has %d parts, the map %d", len(e.Data), len(s.Data))
	}
	if s.Data[0] == plan.TypeVerdict {
		at := w.Open(unix.NFTA_SET_ELEM_DATA)
		err := appendVerdict(w, e.Data[0])
		w.Close(at)
		return err
	}
	var value []byte
	for i, t := range s.Data {
		part, err := encodePart(t, e.Data[i])
		if err != nil {
			return fmt.Errorf("data part %d: %w", i+1, err)
		}
		if !bytes.Equal(part.from, part.to) {
			return fmt.Errorf("data part %d: %q is a range, data is a single value", i+1, e.Data[i])
		}
		value = append(value, part.from...)
		if len(s.Data) > 1 {
			value = padWord(value)
		}
	}
	appendValue(w, unix.NFTA_SET_ELEM_DATA, value)
	return nil
}

// appendVerdict appends NFTA_DATA_VERDICT for "accept", "drop", "return",
// "continue", "jump CHAIN" or "goto CHAIN".
func appendVerdict(w *wire, text string) error {
	word, chain, jumps := strings.Cut(text, " ")
	codes := map[string]int32{"accept": codeAccept, "drop": codeDrop, "return": codeReturn, "continue": codeContinue}
	if jumps {
		codes = map[string]int32{"jump": codeJump, "goto": codeGoto}
	}
	code, ok := codes[word]
	if !ok || jumps && chain == "" {
		return fmt.Errorf("data: %q is no verdict", text)
	}
	at := w.Open(unix.NFTA_DATA_VERDICT)
	w.BE32(unix.NFTA_VERDICT_CODE, uint32(code))
	if jumps {
		w.Str(unix.NFTA_VERDICT_CHAIN, chain)
	}
	w.Close(at)
	return nil
}

func verdictText(b []byte) string {
	var code int32
	var chain string
	for typ, data := range attr.All(b) {
		switch typ {
		case unix.NFTA_VERDICT_CODE:
			code = int32(attr.BE32(data))
		case unix.NFTA_VERDICT_CHAIN:
			chain = attr.Text(data)
		}
	}
	switch code {
	case codeDrop:
		return "drop"
	case codeAccept:
		return "accept"
	case codeContinue:
		return "continue"
	case codeReturn:
		return "return"
	case codeJump:
		return "jump " + chain
	case codeGoto:
		return "goto " + chain
	}
	return fmt.Sprintf("verdict %d", code)
}

// encodeComment is the userdata of an element: tag, length, text and a zero byte.
func encodeComment(text string) []byte {
	return append(append([]byte{commentTag, byte(len(text) + 1)}, text...), 0)
}

// userdata finds the text with a tag in userdata; "" when there is none.
func userdata(b []byte, tag byte) string {
	for len(b) >= 2 {
		n := int(b[1])
		if len(b) < 2+n {
			return ""
		}
		if b[0] == tag {
			return attr.Text(b[2 : 2+n])
		}
		b = b[2+n:]
	}
	return ""
}

// decodeEntries reads the elements of a NEWSETELEM message.
func decodeEntries(list []byte, into []entry) []entry {
	for _, item := range attr.All(list) {
		var en entry
		for typ, data := range attr.All(item) {
			switch typ {
			case unix.NFTA_SET_ELEM_KEY:
				en.key = dataValue(data)
			case nftaElemKeyEnd:
				en.end = dataValue(data)
			case unix.NFTA_SET_ELEM_FLAGS:
				en.flags = attr.BE32(data)
			case unix.NFTA_SET_ELEM_DATA:
				en.data, en.verdict = dataValue(data), dataVerdict(data)
			case unix.NFTA_SET_ELEM_USERDATA:
				en.comment = userdata(data, commentTag)
			}
		}
		into = append(into, en)
	}
	return into
}

func dataValue(b []byte) []byte {
	for typ, data := range attr.All(b) {
		if typ == unix.NFTA_DATA_VALUE {
			return bytes.Clone(data)
		}
	}
	return nil
}

func dataVerdict(b []byte) string {
	for typ, data := range attr.All(b) {
		if typ == unix.NFTA_DATA_VERDICT {
			return verdictText(data)
		}
	}
	return ""
}

// decodeElements turns the entries of a set into elements.
func decodeElements(s plan.Set, entries []entry) []plan.Element {
	if s.Interval && len(s.KeyTypes) == 1 {
		entries = pairEntries(entries)
	}
	out := make([]plan.Element, 0, len(entries))
	for _, en := range entries {
		e := plan.Element{Family: s.Family, Set: s.Name, Owner: plan.Owner(en.comment), Data: decodeData(s, en)}
		switch {
		case en.flags&nftElemCatchall != 0:
			e.Keys = []string{wildcard}
		case en.end == nil:
			e.Keys = decodeParts(s.KeyTypes, span{en.key, en.key})
		default:
			e.Keys = decodeParts(s.KeyTypes, span{en.key, en.end})
		}
		out = append(out, e)
	}
	return out
}

func decodeData(s plan.Set, en entry) []string {
	switch {
	case len(s.Data) == 0:
		return nil
	case en.verdict != "":
		return []string{en.verdict}
	}
	return decodeParts(s.Data, single(en.data))
}

// decodeParts splits the bytes of a key or of data.
func decodeParts(ts []plan.DataType, s span) []string {
	out := make([]string, 0, len(ts))
	for _, t := range ts {
		size := min(len(s.from), len(s.to))
		if nt, err := typeOf(t); err == nil {
			size = min(size, nt.size)
		}
		out = append(out, decodePart(t, span{s.from[:size], s.to[:size]}))
		skip := min(words(size)*wordSize, len(s.from), len(s.to))
		s = span{s.from[skip:], s.to[skip:]}
	}
	return out
}

// pairEntries joins the start and the end of each interval. An end without a
// start, as nft(8) writes one at the bottom, says nothing.
func pairEntries(entries []entry) []entry {
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, func(a, b entry) int {
		if c := bytes.Compare(a.key, b.key); c != 0 {
			return c
		}
		return int(b.flags&unix.NFT_SET_ELEM_INTERVAL_END) - int(a.flags&unix.NFT_SET_ELEM_INTERVAL_END)
	})
	var out []entry
	open := false
	for _, en := range sorted {
		switch {
		case en.flags&nftElemCatchall != 0:
			out = append(out, en)
		case en.flags&unix.NFT_SET_ELEM_INTERVAL_END == 0:
			en.end = bytes.Repeat([]byte{0xff}, len(en.key))
			out, open = append(out, en), true
		case open && len(en.key) > 0:
			out[len(out)-1].end = decrement(en.key)
			open = false
		}
	}
	return out
}

// setAttributes appends what declares a set: flags, types, sizes and what nft(8)
// needs to print it.
func setAttributes(w *wire, s plan.Set, extraFlags, id uint32) error {
	keyID, keySize, err := typeID(s.KeyTypes)
	if err != nil {
		return err
	}
	flags := extraFlags
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL
		if len(s.KeyTypes) > 1 {
			flags |= nftSetConcat
		}
	}
	if len(s.Data) > 0 {
		flags |= unix.NFT_SET_MAP
	}
	w.BE32(unix.NFTA_SET_FLAGS, flags)
	w.BE32(unix.NFTA_SET_KEY_TYPE, keyID)
	w.BE32(unix.NFTA_SET_KEY_LEN, uint32(keySize))
	dataOrder := uint32(0)
	if len(s.Data) > 0 {
		if dataOrder, err = dataAttributes(w, s); err != nil {
			return err
		}
	}
	w.BE32(unix.NFTA_SET_ID, id)
	if s.Interval && len(s.KeyTypes) > 1 {
		if err := describeFields(w, s.KeyTypes); err != nil {
			return err
		}
	}
	udata := orderData(0, byteOrder(s.KeyTypes))
	if len(s.Data) > 0 {
		udata = append(udata, orderData(1, dataOrder)...)
	}
	w.Bytes(unix.NFTA_SET_USERDATA, udata)
	return nil
}

func dataAttributes(w *wire, s plan.Set) (order uint32, err error) {
	if s.Data[0] == plan.TypeVerdict {
		w.BE32(unix.NFTA_SET_DATA_TYPE, typeVerdict)
		w.BE32(unix.NFTA_SET_DATA_LEN, 16)
		return 0, nil
	}
	id, size, err := typeID(s.Data)
	if err != nil {
		return 0, err
	}
	w.BE32(unix.NFTA_SET_DATA_TYPE, id)
	w.BE32(unix.NFTA_SET_DATA_LEN, uint32(size))
	return byteOrder(s.Data), nil
}

func byteOrder(ts []plan.DataType) uint32 {
	if len(ts) != 1 {
		return 0
	}
	nt, err := typeOf(ts[0])
	if err != nil {
		return 0
	}
	return nt.byteOrder
}

// orderData is an entry of a set's userdata as nft(8) writes it: the byte order
// of the key (tag 0) or of the data (tag 1), a number of the host.
func orderData(tag byte, order uint32) []byte {
	return binary.NativeEndian.AppendUint32([]byte{tag, 4}, order)
}

// describeFields tells the kernel where the parts of the key end
// (NFTA_SET_DESC_CONCAT), which a set of concatenated intervals needs.
func describeFields(w *wire, ts []plan.DataType) error {
	const setDescConcat, setFieldLen = 2, 1
	desc := w.Open(unix.NFTA_SET_DESC)
	concat := w.Open(setDescConcat)
	for _, t := range ts {
		nt, err := typeOf(t)
		if err != nil {
			return err
		}
		field := w.Open(unix.NFTA_LIST_ELEM)
		w.BE32(setFieldLen, uint32(nt.size))
		w.Close(field)
	}
	w.Close(concat)
	w.Close(desc)
	return nil
}
