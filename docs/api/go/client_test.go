package main

// The project's own vectors, tests/vectors/crypto.json: what this client computes and opens is what
// HCE-FS computes.  VECTORS names the file.

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"lukechampine.com/blake3"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type sealedVector struct {
	Failure                   string
	DEK, Blob, Record, Sealed hexBytes
	Index, Length             uint64
	Last                      bool
}

func vectors(t *testing.T) (found struct {
	Signing struct {
		Seed, Message, Signature, Cluster, Account hexBytes
		Tag                                        string
		PublicKey                                  hexBytes `json:"public_key"`
		SignedProof                                hexBytes `json:"signed_proof"`
	}
	Keys struct {
		DEK        hexBytes
		Commitment hexBytes `json:"dek_commitment"`
	}
	Envelope struct{ Seed, Info, Ciphertext, Secret hexBytes }
	Segments []sealedVector
	Negative []sealedVector `json:"negative_segments"`
}) {
	path := os.Getenv("VECTORS")
	if path == "" {
		t.Fatal("VECTORS must name tests/vectors/crypto.json of the repository")
	}
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &found)
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSignaturesAreOursAndTheirs(t *testing.T) {
	v := vectors(t).Signing
	key := ed25519.NewKeyFromSeed(v.Seed)
	if !bytes.Equal(ed25519.Sign(key, tagged(v.Tag, v.Message)), v.Signature) {
		t.Error("another signature")
	}
	account := blake3.Sum256(join([]byte("hcefs/v1/account\x00"), v.Cluster, v.PublicKey))
	if !bytes.Equal(account[:idSize], v.Account) {
		t.Error("another account id")
	}
	// A proof of theirs: the same bytes when it is written here, and a signature that holds.
	err := read(v.SignedProof, "signed-proof", 1, 2, func(r *reader) {
		fields := r.array()
		proof := encode("request-proof", 1, fields...)
		if !ed25519.Verify(ed25519.PublicKey(v.PublicKey), tagged("request-proof", proof), r.bytes()) {
			t.Error("their proof does not hold here")
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAProofCanBeReadAndHolds(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, keySize))
	account := &Account{cluster: zeroID, keyVersion: 1, token: key, id: zeroID}
	made := account.proof(Request{method: "query"})
	err := read(made, "signed-proof", 1, 2, func(r *reader) {
		fields := r.array()
		if len(fields) != 13 || fields[2] != "query" {
			t.Errorf("fields %v", fields)
		}
		message := tagged("request-proof", encode("request-proof", 1, fields...))
		if !ed25519.Verify(key.Public().(ed25519.PublicKey), message, r.bytes()) {
			t.Error("the signature does not hold")
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTheEnvelopeOpensForItsUseOnly(t *testing.T) {
	v := vectors(t).Envelope
	account := &Account{receiving: v.Seed}
	secret, err := account.openEnvelope(v.Ciphertext, v.Info)
	if err != nil || !bytes.Equal(secret, v.Secret) {
		t.Error("another secret", err)
	}
	if _, err := account.openEnvelope(v.Ciphertext, append(v.Info, 0)); err == nil {
		t.Error("opened for another use")
	}
}

func TestSegments(t *testing.T) {
	v := vectors(t)
	if !bytes.Equal(expand(v.Keys.DEK, "hcefs/v1/dek-com"), v.Keys.Commitment) {
		t.Error("another commitment")
	}
	for _, each := range v.Segments {
		if len(each.Sealed) == 0 {
			continue // a long one, of which the file has the digest only
		}
		plain, err := openSegment(each.DEK, each.Blob, each.Record, each.Index, each.Last, each.Sealed)
		if err != nil || uint64(len(plain)) != each.Length {
			t.Errorf("segment %d of %d bytes: %v", each.Index, each.Length, err)
		}
	}
	for _, each := range v.Negative {
		if _, err := openSegment(each.DEK, each.Blob, each.Record, each.Index, each.Last, each.Sealed); err == nil {
			t.Errorf("opened although it is %s", each.Failure)
		}
	}
}

func TestOnlyOneEncodingOfAValueIsRead(t *testing.T) {
	good := encode("thing", 1, uint64(5), []byte{1})
	if _, err := decode(good, "thing", 1, 2); err != nil {
		t.Error(err)
	}
	bad := map[string][]byte{
		"longer integer":     bytes.Replace(good, []byte{5}, []byte{0x18, 5}, 1),
		"trailing byte":      append(bytes.Clone(good), 0),
		"cut":                good[:len(good)-1],
		"indefinite array":   append(append([]byte{0x9f}, good[1:]...), 0xff),
		"another kind":       encode("thong", 1, uint64(5), []byte{1}),
		"another version":    encode("thing", 2, uint64(5), []byte{1}),
		"one field too many": encode("thing", 1, uint64(5), []byte{1}, "more"),
	}
	for what, data := range bad {
		if _, err := decode(data, "thing", 1, 2); err == nil {
			t.Errorf("read although it has: %s", what)
		}
	}
	err := read(good, "thing", 1, 2, func(r *reader) { r.text() })
	if err == nil {
		t.Error("an integer was read as text")
	}
}
