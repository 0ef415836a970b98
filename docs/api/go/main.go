// A client of HCE-FS without its SDK: health, status, get and put.  docs/api/grpc.md explains it.
package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"hcefs.example/client/wire"
)

const callSeconds = 60

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", describe(err))
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("say health, status, get or put")
	}
	flags := flag.NewFlagSet(arguments[0], flag.ExitOnError)
	folder := flags.String("dir", "hcefs-cluster", "folder with cluster.toml and accounts/")
	name := flags.String("as", "", "account: accounts/NAME.keys")
	bundleFile := flags.String("bundle", "", "get: the bundle (hcefs cap bundle)")
	sealed := flags.Bool("sealed", false, "get: the node returns ciphertext, and never has the key")
	output := flags.String("o", "", "get: file to write")
	capability := flags.String("cap", "", "put: the capability (hcefs cap mint)")
	recordText := flags.String("record", "", "put: the record")
	grantText := flags.String("grant", "grt-"+strings.Repeat("0", 32), "put: the grant; by default as the owner")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callSeconds*time.Second)
	defer cancel()
	cluster, err := loadCluster(*folder)
	if err != nil {
		return err
	}
	if arguments[0] == "health" {
		return health(ctx, cluster)
	}
	as, err := loadAccount(filepath.Join(*folder, "accounts", *name+".keys"))
	if err != nil {
		return err
	}
	switch arguments[0] {
	case "status":
		return showStatus(ctx, cluster, as)
	case "get":
		bundle, err := loadBundle(*bundleFile)
		if err != nil {
			return err
		}
		data, err := get(ctx, cluster, as, bundle, *sealed)
		if err != nil {
			return err
		}
		fmt.Printf("%d bytes, as their writer signed them\n", len(data))
		return os.WriteFile(*output, data, 0o600)
	case "put":
		record, err := parseID(*recordText, "rec", idSize)
		if err != nil {
			return err
		}
		grant, err := parseID(*grantText, "grt", idSize)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(*capability)
		if err != nil {
			return err
		}
		token, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			return fmt.Errorf("%s: not a capability", *capability)
		}
		data, err := os.ReadFile(flags.Arg(0))
		if err != nil {
			return err
		}
		blob, err := put(ctx, cluster, as, token, record, grant, filepath.Base(flags.Arg(0)), data)
		if err != nil {
			return err
		}
		fmt.Println("blob-" + hex.EncodeToString(blob))
		return nil
	}
	return fmt.Errorf("there is no %q", arguments[0])
}

// health asks the standard health service; it needs no proof.
func health(ctx context.Context, cluster *Cluster) error {
	for _, address := range append([]string{cluster.Ledger}, cluster.Nodes...) {
		connection, err := cluster.dial(address)
		if err != nil {
			return err
		}
		defer connection.Close()
		answer, err := grpc_health_v1.NewHealthClient(connection).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return err
		}
		fmt.Println(address, answer.Status)
	}
	return nil
}

// showStatus asks every process for its state; operators only.
func showStatus(ctx context.Context, cluster *Cluster, as *Account) error {
	for _, address := range append([]string{cluster.Ledger}, cluster.Nodes...) {
		connection, err := cluster.dial(address)
		if err != nil {
			return err
		}
		defer connection.Close()
		request := &wire.StatusRequest{Proof: as.proof(Request{method: "status"})}
		answer, err := wire.NewAdminClient(connection).Status(ctx, request)
		if err != nil {
			return err
		}
		fmt.Printf("%s node %d, version %s, height %d, %d shards\n",
			address, answer.NodeId, answer.Version, answer.Height, answer.Shards)
	}
	return nil
}

// describe shows an error: of the cluster with its status and reason, and what to do.
func describe(err error) string {
	var refused *Refusal
	reason := ""
	if errors.As(err, &refused) {
		reason = fmt.Sprintf(" (hcefs-reason %s)", refused.reason)
	}
	if failure, fits := status.FromError(err); fits {
		return fmt.Sprintf("%s%s: %s", failure.Code(), reason, failure.Message())
	}
	return err.Error()
}
