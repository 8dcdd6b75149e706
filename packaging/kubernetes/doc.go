// Package kubernetes holds no code: its tests run the install step of the manifests beside it, without a cluster.
package kubernetes
