package main

// Putting a blob: the node seals it, this account signs the entry.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"lukechampine.com/blake3"

	"hcefs.example/client/wire"
)

const partSize = 1 << 20 // of a message; any length up to this

// put stores data in a record and appends its entry.  A grant of zeros stands for the owner.
func put(
	ctx context.Context, cluster *Cluster, as *Account, token, record, grant []byte, name string, data []byte,
) (blob []byte, err error) {
	generation, err := cluster.generation(ctx, as, record)
	if err != nil {
		return nil, err
	}
	nodes, err := cluster.nodes(ctx, as)
	if err != nil {
		return nil, err
	}
	connection, err := cluster.dial(nodes[0].address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	// Every attempt draws its own id: 16 random bytes, then slot 0.
	blob, salt := append(random(idSize), 0, 0), random(keySize)
	commitBy := uint64(time.Now().Add(time.Hour).UnixMilli())
	authorize := func() *wire.Authorization {
		return &wire.Authorization{Token: token, Proof: as.proof(Request{
			method: "put", purpose: "TREAT", token: token,
			record: record, blob: blob, receiver: nodes[0].account,
		})}
	}
	stream, err := wire.NewBlobsClient(connection).Put(ctx)
	if err != nil {
		return nil, err
	}
	send := func(message *wire.PutRequest) {
		if err == nil {
			err = stream.Send(message)
		}
	}
	send(&wire.PutRequest{Message: &wire.PutRequest_Header{Header: &wire.PutHeader{
		Authorization: authorize(), BlobId: blob, RecordId: record, Generation: generation,
		CommitByMs: commitBy, Salt: salt, RequestId: random(idSize), Writer: as.id,
		ExpectedLength: uint64(len(data)),
	}}})
	for start := 0; start < len(data); start += partSize {
		send(&wire.PutRequest{Message: &wire.PutRequest_Data{Data: data[start:min(start+partSize, len(data))]}})
	}
	send(&wire.PutRequest{Message: &wire.PutRequest_Trailer{Trailer: &wire.PutTrailer{
		PlaintextLength: uint64(len(data)), Metadata: as.metadata(blob, record, name, data),
		Authorization: authorize(), // the first one may be over by now
	}}})
	// After a failed Send the reason is in the answer.
	answer, failure := stream.CloseAndRecv()
	if failure != nil {
		return nil, refusal(failure, stream.Trailer())
	}
	// The node must have stored this blob, by this writer, until this time.
	err = read(answer.Core, "core", 1, 11, func(r *reader) {
		same := bytes.Equal(r.bytes(), blob) && bytes.Equal(r.bytes(), record)
		same = r.number() == generation && r.number() == uint64(len(data)) && same
		r.skip() // segment size
		r.skip() // commitment to the key
		same = bytes.Equal(r.bytes(), as.id) && r.number() == commitBy && same
		if !same && r.err == nil {
			r.err = errors.New("the node's answer is about something else")
		}
	})
	if err != nil {
		return nil, err
	}
	fmt.Printf("%d of %d shards are on disk\n", answer.DurableShards, answer.TotalShards)
	return blob, cluster.append(ctx, as, record, grant, blob, salt, answer.Core, generation, commitBy)
}

// metadata is what only readers see, with the signature that binds the content to its writer.
func (a *Account) metadata(blob, record []byte, name string, data []byte) []byte {
	digest := blake3.Sum256(data)
	fields := array{"application/octet-stream", name, array{}, digest[:], []byte{}}
	unsigned := blake3.Sum256(encode("metadata", 1, fields...))
	fields[4] = ed25519.Sign(a.signing, tagged("content", join(blob, record, unsigned[:])))
	return encode("metadata", 1, fields...)
}

// append commits a blob: the ledger gets a salted commitment, signed by the writer.
func (c *Cluster) append(
	ctx context.Context, as *Account, record, grant, blob, salt, core []byte, generation, commitBy uint64,
) error {
	digest := blake3.Sum256(core)
	commitment := blake3.Sum256(join([]byte("hcefs/v1/commitment\x00"), salt, record, blob, digest[:]))
	entry := array{record, generation, commitment[:], commitBy, grant}
	body := encode("append", 1, array{entry}, random(idSize))
	connection, err := c.dial(c.Ledger)
	if err != nil {
		return err
	}
	defer connection.Close()
	answer, err := wire.NewLedgerClient(connection).Submit(ctx, &wire.SubmitRequest{Transaction: as.transaction(body)})
	if err != nil {
		return err
	}
	if len(answer.Leaves) != 1 || !bytes.Equal(answer.Leaves[0].RecordId, record) {
		return errors.New("the ledger's answer is about something else")
	}
	fmt.Printf("entry %d of the record, in block %d\n", answer.Leaves[0].Index, answer.Height)
	return nil
}
