// Package flatjson reads the plain records that nodes write by the thousands without reflection. It knows a part of JSON
// only, as [encoding/json] writes it: one object without spaces and escapes. Of anything else it says so, and the caller
// takes [encoding/json] instead: what it reads is always what that would read.
package flatjson
