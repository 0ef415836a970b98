package main

// Deterministic CBOR as docs/FORMATS.md defines it: integers, byte strings, text and arrays.
// A value is the array [kind, version, fields...]; a nested one has its fields alone.

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

var writer = func() cbor.EncMode {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

// array is a sequence of fields.
type array = []any

// encode returns the canonical bytes of a value of a kind.
func encode(kind string, version uint64, fields ...any) []byte {
	data, err := writer.Marshal(append(array{kind, version}, fields...))
	if err != nil {
		panic(err) // only our own types come here
	}
	return data
}

// decode reads canonical bytes of a kind and version with a number of fields.
//
// What was read is encoded again and compared, so that two byte strings never mean one value.
func decode(data []byte, kind string, version uint64, count int) (fields array, err error) {
	var value array
	if err := cbor.Unmarshal(data, &value); err != nil {
		return nil, fmt.Errorf("%s: not CBOR", kind)
	}
	again, err := writer.Marshal(value)
	if err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%s: not deterministic CBOR", kind)
	}
	if len(value) != count+2 || value[0] != kind || value[1] != version {
		return nil, fmt.Errorf("these bytes are not a %s of version %d", kind, version)
	}
	return value[2:], nil
}

// reader takes fields one after the other and remembers the first that has another type.
type reader struct {
	kind   string
	fields array
	err    error
}

func take[T any](r *reader) (value T) {
	if r.err != nil {
		return value
	}
	if len(r.fields) == 0 {
		r.err = fmt.Errorf("%s: too few fields", r.kind)
		return value
	}
	value, fits := r.fields[0].(T)
	if !fits {
		r.err = fmt.Errorf("%s: a field of a wrong type", r.kind)
	}
	r.fields = r.fields[1:]
	return value
}

func (r *reader) bytes() []byte { return take[[]byte](r) }
func (r *reader) text() string  { return take[string](r) }
func (r *reader) array() array  { return take[array](r) }
func (r *reader) skip()         { take[any](r) }

// number reads an unsigned integer.
func (r *reader) number() uint64 { return take[uint64](r) }

// sized reads a byte string of exactly that length.
func (r *reader) sized(size int) []byte {
	value := r.bytes()
	if r.err == nil && len(value) != size {
		r.err = fmt.Errorf("%s: a field has %d bytes, not %d", r.kind, len(value), size)
	}
	return value
}

// read decodes a value and hands its fields to a function.
func read(data []byte, kind string, version uint64, count int, with func(*reader)) error {
	fields, err := decode(data, kind, version, count)
	if err != nil {
		return err
	}
	r := &reader{kind: kind, fields: fields}
	with(r)
	return r.err
}
