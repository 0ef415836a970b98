package main

// Keys and segments: docs/FORMATS.md, "Sealed segments" and "Keys".

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

const (
	segmentSize = 1 << 20
	sealedMore  = 48 // commitment and tag
)

var errSeal = errors.New("sealed bytes are damaged, or of another key, blob or record")

func expand(secret []byte, info string) []byte {
	key, err := hkdf.Expand(sha256.New, secret, info, keySize)
	if err != nil {
		panic(err) // only for lengths that are not used here
	}
	return key
}

// openEnvelope opens what was sealed to this account, for exactly the use that info names.
func (a *Account) openEnvelope(ciphertext, info []byte) ([]byte, error) {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(a.receiving) // X-Wing
	if err != nil {
		return nil, err
	}
	return hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, ciphertext)
}

func openWith(key, nonce, sealed, associated []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	plain, err := gcm.Open(nil, nonce, sealed, associated)
	if err != nil {
		return nil, errSeal
	}
	return plain, nil
}

// openSegment opens one sealed segment.  The commitment comes first: AES-GCM alone does not
// commit to its key.  Index, last flag, blob and record are bound.
func openSegment(dek, blob, record []byte, index uint64, last bool, sealed []byte) ([]byte, error) {
	if len(sealed) < sealedMore || (!last && len(sealed) != segmentSize+sealedMore) {
		return nil, errSeal
	}
	secret := expand(dek, "hcefs/v1/seg"+string(binary.BigEndian.AppendUint64(nil, index)))
	if !bytes.Equal(sealed[:keySize], expand(secret, "hcefs/v1/com")) {
		return nil, errSeal
	}
	nonce := make([]byte, 12)
	if last {
		nonce[11] = 1
	}
	associated := join([]byte{0, 1}, blob, record, []byte{0, 0x10, 0, 0})
	return openWith(expand(secret, "hcefs/v1/key"), nonce, sealed[keySize:], associated)
}

// openMetadata opens the metadata in a core.
func openMetadata(dek, blob, record, sealed []byte) ([]byte, error) {
	secret := expand(dek, "hcefs/v1/meta")
	if len(sealed) < keySize+12 || !bytes.Equal(sealed[:keySize], expand(secret, "hcefs/v1/meta-com")) {
		return nil, errSeal
	}
	nonce, ciphertext := sealed[keySize:keySize+12], sealed[keySize+12:]
	return openWith(expand(secret, "hcefs/v1/meta-key"), nonce, ciphertext, join([]byte{0, 1}, blob, record))
}
