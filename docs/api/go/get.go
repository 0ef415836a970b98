package main

// Reading what a bundle hands over, and verifying it.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"

	"lukechampine.com/blake3"

	"hcefs.example/client/wire"
)

// Bundle is a capability for one blob and the blob's key, sealed to one account
// (hcefs cap bundle).
type Bundle struct {
	cluster, record, blob, to, token, sealedKey []byte
	purpose                                     string
	generation, rangeLength                     uint64
}

func loadBundle(path string) (*Bundle, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b Bundle
	err = read(data, "bundle", 1, 10, func(r *reader) {
		b.cluster, b.record, b.blob = r.sized(idSize), r.sized(idSize), r.sized(blobSize)
		b.generation = r.number()
		r.skip() // start of the range
		b.rangeLength = r.number()
		b.purpose, b.to, b.token = r.text(), r.sized(idSize), r.bytes()
		envelope := &reader{kind: "envelope", fields: r.array()}
		if suite := envelope.number(); suite != 1 {
			envelope.err = errors.New("envelope: unknown suite")
		}
		if b.sealedKey = envelope.bytes(); r.err == nil {
			r.err = envelope.err
		}
	})
	if err == nil && b.rangeLength != 0 {
		err = errors.New("this client reads whole blobs: the bundle is for a range")
	}
	if err == nil && (b.blob[16]|b.blob[17]) != 0 {
		err = errors.New("this client reads blobs that are not packed: use Blobs/GetMany")
	}
	return &b, err
}

// Manifest is what a reader needs of a blob's core.
type Manifest struct {
	length     uint64
	commitment []byte
	writer     []byte
	metadata   []byte // sealed
}

// get reads a blob into memory.  With sealed, the node returns ciphertext and never has the key.
func get(ctx context.Context, cluster *Cluster, as *Account, bundle *Bundle, sealed bool) ([]byte, error) {
	if !bytes.Equal(bundle.to, as.id) || !bytes.Equal(bundle.cluster, as.cluster) {
		return nil, errors.New("the bundle is for another account or cluster")
	}
	info := encode("envelope-info", 1,
		"bundle", uint64(1), bundle.cluster, bundle.record, bundle.generation, bundle.blob, bundle.to)
	dek, err := as.openEnvelope(bundle.sealedKey, info)
	if err != nil {
		return nil, fmt.Errorf("the key in the bundle does not open: %w", err)
	}
	nodes, err := cluster.nodes(ctx, as)
	if err != nil {
		return nil, err
	}
	var data []byte
	for _, node := range nodes { // any node will do; the next one, when one is away
		if data, err = getFrom(ctx, cluster, as, bundle, node, dek, sealed); err == nil {
			return data, nil
		}
	}
	return nil, err
}

func getFrom(
	ctx context.Context, cluster *Cluster, as *Account, bundle *Bundle, node Node, dek []byte, sealed bool,
) ([]byte, error) {
	connection, err := cluster.dial(node.address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	blobs := wire.NewBlobsClient(connection)
	authorize := func(method string) *wire.Authorization {
		return &wire.Authorization{Token: bundle.token, Proof: as.proof(Request{
			method: method, purpose: bundle.purpose, token: bundle.token,
			record: bundle.record, blob: bundle.blob, receiver: node.account,
		})}
	}
	stat, err := blobs.Stat(ctx, &wire.StatRequest{
		Authorization: authorize("stat"), BlobId: bundle.blob, RecordId: bundle.record,
		RequestId: random(idSize),
	})
	if err != nil {
		return nil, err
	}
	manifest, err := readCore(stat.Core, bundle)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(manifest.commitment, expand(dek, "hcefs/v1/dek-com")) {
		return nil, errors.New("the key in the bundle is not this blob's")
	}
	request := &wire.GetRequest{
		Authorization: authorize("get"), BlobId: bundle.blob, RecordId: bundle.record,
		RequestId: random(idSize),
	}
	if sealed {
		request.Opening = &wire.GetRequest_Sealed{Sealed: true}
	} else {
		request.Opening = &wire.GetRequest_Dek{Dek: dek}
	}
	stream, err := blobs.Get(ctx, request)
	if err != nil {
		return nil, err
	}
	var data []byte
	segments := max(1, (manifest.length+segmentSize-1)/segmentSize)
	for index := uint64(0); ; {
		message, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, refusal(err, stream.Trailer())
		}
		part := message.GetData()
		if message.GetHeader() != nil {
			continue // the core has said all that is in it
		}
		if sealed {
			part, err = openSegment(dek, bundle.blob, bundle.record, index, index+1 == segments, part)
			if err != nil {
				return nil, err
			}
			index++
		}
		if data = append(data, part...); uint64(len(data)) > manifest.length {
			return nil, errors.New("the node sends more than there is")
		}
	}
	return data, verify(ctx, cluster, as, bundle, manifest, dek, data)
}

func readCore(core []byte, bundle *Bundle) (*Manifest, error) {
	var m Manifest
	err := read(core, "core", 1, 11, func(r *reader) {
		if !bytes.Equal(r.bytes(), bundle.blob) || !bytes.Equal(r.bytes(), bundle.record) {
			r.err = errors.New("core: of another blob")
			return
		}
		r.skip() // generation
		m.length = r.number()
		if r.number() != segmentSize && r.err == nil {
			r.err = errors.New("core: another size of segments")
		}
		m.commitment, m.writer = r.sized(keySize), r.sized(idSize)
		r.skip() // commit_by
		r.skip() // k
		r.skip() // digests of the data shards
		m.metadata = r.bytes()
	})
	return &m, err
}

// verify compares what a node returned with what the writer signed: a node that seals or opens
// could otherwise return anything.
func verify(
	ctx context.Context, cluster *Cluster, as *Account, bundle *Bundle, manifest *Manifest, dek, data []byte,
) error {
	if uint64(len(data)) != manifest.length {
		return fmt.Errorf("got %d of %d bytes", len(data), manifest.length)
	}
	opened, err := openMetadata(dek, bundle.blob, bundle.record, manifest.metadata)
	if err != nil {
		return err
	}
	fields, err := decode(opened, "metadata", 1, 5)
	if err != nil {
		return err
	}
	digest := blake3.Sum256(data)
	if said, _ := fields[3].([]byte); !bytes.Equal(said, digest[:]) {
		return errors.New("these are not the bytes that the writer put")
	}
	signature, _ := fields[4].([]byte)
	unsigned := blake3.Sum256(encode("metadata", 1, append(fields[:4:4], []byte{})...))
	message := join(bundle.blob, bundle.record, unsigned[:])
	key, err := cluster.signingKey(ctx, as, manifest.writer)
	if err != nil {
		return err
	}
	if len(signature) != ed25519.SignatureSize || !ed25519.Verify(key, tagged("content", message), signature) {
		return errors.New("the writer's signature does not hold")
	}
	return nil
}
