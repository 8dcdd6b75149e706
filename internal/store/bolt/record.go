package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/vethloom/vethloom/cnm"
)

const (
	bucketMeta    = "meta"
	bucketRecords = "records"
	keyBoot       = "boot"
	keyFormat     = "format"
	format        = "1"

	recordHeader = 12
)

// recordKey is <kind> NUL <ID>: records of a kind are together, in order of ID.
func recordKey(k cnm.Key) []byte {
	b := make([]byte, 0, len(k.Kind)+1+len(k.ID))
	b = append(b, k.Kind...)
	b = append(b, 0)
	return append(b, k.ID...)
}

// encodeRecord is a CRC-32C over everything else and the key, the revision, and the
// value. bbolt has no checksums of data.
func encodeRecord(key, value []byte, revision uint64) []byte {
	b := make([]byte, recordHeader, recordHeader+len(value))
	binary.BigEndian.PutUint64(b[4:], revision)
	b = append(b, value...)
	binary.BigEndian.PutUint32(b, checksum(key, b[4:]))
	return b
}

// decodeRecord returns a record that shares no memory with b.
func decodeRecord(key, b []byte) (cnm.Record, error) {
	if len(b) < recordHeader || binary.BigEndian.Uint32(b) != checksum(key, b[4:]) {
		return cnm.Record{}, errors.New("the checksum is wrong")
	}
	kind, id, ok := bytes.Cut(key, []byte{0})
	if !ok {
		return cnm.Record{}, errors.New("the key has no kind")
	}
	return cnm.Record{
		Key:      cnm.Key{Kind: cnm.Kind(kind), ID: string(id)},
		Value:    append([]byte{}, b[recordHeader:]...),
		Revision: binary.BigEndian.Uint64(b[4:]),
	}, nil
}

func revisionOf(b []byte) uint64 {
	if len(b) < recordHeader {
		return 0
	}
	return binary.BigEndian.Uint64(b[4:])
}

func checksum(key, b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, table, key), table, b)
}
