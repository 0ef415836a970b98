package main

// An account: its keys, signatures, and the proof that goes with each request.

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"lukechampine.com/blake3"
)

const (
	idSize   = 16
	blobSize = 18
	keySize  = 32
)

var zeroID = make([]byte, idSize)

// Account is the secret half of an account without a passphrase, as accounts/NAME.keys has it.
type Account struct {
	cluster    []byte
	keyVersion uint64
	signing    ed25519.PrivateKey
	token      ed25519.PrivateKey
	receiving  []byte // the seed of the X-Wing key
	id         []byte
}

func loadAccount(path string) (*Account, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var account Account
	var signing, token, identity []byte
	err = read(data, "account-keys", 2, 8, func(r *reader) {
		account.cluster = r.sized(idSize)
		account.keyVersion = r.number()
		signing, token = r.sized(keySize), r.sized(keySize)
		account.receiving = r.sized(keySize)
		r.sized(keySize) // the master of a patient's record keys
		identity = r.sized(idSize)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	account.signing = ed25519.NewKeyFromSeed(signing)
	account.token = ed25519.NewKeyFromSeed(token)
	account.id = identity
	if string(identity) == string(zeroID) { // the keys were never changed
		public := account.signing.Public().(ed25519.PublicKey)
		hash := blake3.Sum256(join([]byte("hcefs/v1/account\x00"), account.cluster, public))
		account.id = hash[:idSize]
	}
	return &account, nil
}

// tagged is what is signed for one use: no signature passes for another one.
func tagged(tag string, message []byte) []byte {
	return join([]byte("hcefs/v1/"+tag+"\x00"), message)
}

// Request is what a proof is about; ids that do not matter are nil.
type Request struct {
	method, purpose               string
	token, record, blob, receiver []byte
}

// proof returns the signed proof of one request, which counts for 30 seconds.
func (a *Account) proof(request Request) []byte {
	tokenHash := make([]byte, keySize)
	if request.token != nil {
		sum := blake3.Sum256(request.token)
		tokenHash = sum[:]
	}
	fields := array{
		a.cluster, tokenHash, request.method, orZero(request.record, idSize),
		orZero(request.blob, blobSize), uint64(0), uint64(0), request.purpose,
		orZero(request.receiver, idSize), random(idSize), uint64(time.Now().UnixMilli()),
		a.id, a.keyVersion,
	}
	signature := ed25519.Sign(a.token, tagged("request-proof", encode("request-proof", 1, fields...)))
	return encode("signed-proof", 1, fields, signature)
}

// transaction returns a body for the ledger with this account's signature.
func (a *Account) transaction(body []byte) []byte {
	signature := ed25519.Sign(a.signing, tagged("transaction", join(a.cluster, body)))
	return encode("signed-transaction", 1, body, array{array{a.id, a.keyVersion, signature}})
}

func orZero(id []byte, size int) []byte {
	if id == nil {
		return make([]byte, size)
	}
	return id
}

func random(size int) []byte {
	data := make([]byte, size)
	rand.Read(data) // never fails
	return data
}

func join(parts ...[]byte) []byte {
	var joined []byte
	for _, part := range parts {
		joined = append(joined, part...)
	}
	return joined
}
