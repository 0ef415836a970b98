package main

// Where the cluster is, and calls to it.  Servers prove themselves by TLS 1.3 under the cluster's
// own authority; this side proves itself by the proof in each request.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"hcefs.example/client/wire"
)

// Cluster is the connection file of a cluster.
type Cluster struct {
	Authority string   `toml:"authority"`
	Ledger    string   `toml:"ledger"`
	Nodes     []string `toml:"nodes"`

	credentials credentials.TransportCredentials
}

// Node is what the cluster map says of a storage node.
type Node struct {
	account []byte
	address string
}

func loadCluster(folder string) (*Cluster, error) {
	var cluster Cluster
	if _, err := toml.DecodeFile(filepath.Join(folder, "cluster.toml"), &cluster); err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(folder, cluster.Authority))
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s holds no certificate", cluster.Authority)
	}
	cluster.credentials = credentials.NewTLS(&tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS13})
	return &cluster, nil
}

func (c *Cluster) dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(
		address, grpc.WithTransportCredentials(c.credentials), grpc.WithUnaryInterceptor(withReason),
	)
}

// Refusal is an error of the cluster with what its trailers say to programs.
type Refusal struct {
	error
	reason string
}

// GRPCStatus is the status that came with it.
func (r *Refusal) GRPCStatus() *status.Status { return status.Convert(r.error) }

// refusal adds the reason that a call's trailers give, if it failed and they do.
func refusal(err error, trailer metadata.MD) error {
	if reasons := trailer.Get("hcefs-reason"); err != nil && len(reasons) == 1 {
		return &Refusal{err, reasons[0]}
	}
	return err
}

func withReason(
	ctx context.Context, method string, request, answer any, connection *grpc.ClientConn,
	call grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	var trailer metadata.MD
	err := call(ctx, method, request, answer, connection, append(options, grpc.Trailer(&trailer))...)
	return refusal(err, trailer)
}

// query asks the ledger for one fact.
func (c *Cluster) query(ctx context.Context, as *Account, question *wire.QueryRequest) ([]byte, error) {
	connection, err := c.dial(c.Ledger)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	question.Proof = as.proof(Request{method: "query"})
	answer, err := wire.NewLedgerClient(connection).Query(ctx, question)
	if err != nil {
		return nil, err
	}
	if len(answer.Facts) != 1 {
		return nil, fmt.Errorf("the ledger answers with %d facts", len(answer.Facts))
	}
	return answer.Facts[0], nil
}

// nodes asks for the cluster map: the proof of a request names the account of the node it is for.
func (c *Cluster) nodes(ctx context.Context, as *Account) ([]Node, error) {
	fact, err := c.query(ctx, as, &wire.QueryRequest{Question: &wire.QueryRequest_ClusterMap{ClusterMap: true}})
	if err != nil {
		return nil, err
	}
	var found []Node
	err = read(fact, "cluster-map", 1, 6, func(r *reader) {
		r.skip() // epoch
		r.skip() // digest of the map before
		r.skip() // seed
		r.skip() // default profile
		for _, each := range r.array() {
			node := &reader{kind: "node", fields: asArray(each)}
			node.skip() // number
			found = append(found, Node{account: node.sized(idSize), address: node.text()})
			if node.err != nil {
				r.err = node.err
			}
		}
	})
	return found, err
}

// signingKey returns an account's public key for signatures.
func (c *Cluster) signingKey(ctx context.Context, as *Account, account []byte) (key []byte, err error) {
	fact, err := c.query(ctx, as, &wire.QueryRequest{Question: &wire.QueryRequest_Account{Account: account}})
	if err != nil {
		return nil, err
	}
	err = read(fact, "account", 1, 10, func(r *reader) {
		r.skip() // account
		r.skip() // kind
		r.skip() // version of the keys
		key = r.sized(keySize)
	})
	return key, err
}

// generation returns the number of a record's current key pair.
func (c *Cluster) generation(ctx context.Context, as *Account, record []byte) (number uint64, err error) {
	fact, err := c.query(ctx, as, &wire.QueryRequest{Question: &wire.QueryRequest_Record{Record: record}})
	if err != nil {
		return 0, err
	}
	err = read(fact, "record", 1, 6, func(r *reader) {
		r.skip() // record
		r.skip() // owner
		number = r.number()
	})
	return number, err
}

func asArray(value any) array {
	fields, _ := value.(array)
	return fields
}

// parseID reads the text form of an id: prefix-hex.
func parseID(text, prefix string, size int) ([]byte, error) {
	digits, fits := strings.CutPrefix(text, prefix+"-")
	id, err := hex.DecodeString(digits)
	if !fits || err != nil || len(id) != size {
		return nil, fmt.Errorf("%q is not an id: expected %s- and %d hexadecimal digits", text, prefix, 2*size)
	}
	return id, nil
}
