// Command kubernetes prints what a folder of manifests makes, one JSON object a line, and fails on what an API server
// would refuse. It is of a module of its own: what it needs stays out of vethloom's.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kubernetes:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("want one folder with a kustomization.yaml, or one file")
	}
	objects, err := Read(args[0])
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for _, o := range objects {
		if err := out.Encode(o); err != nil {
			return err
		}
	}
	return nil
}
