// Package credential finds and keeps what a user has for registries: in Docker's config.json and its helpers, and in
// Podman's auth.json, which is only read.
//
// Docker's and Podman's manuals describe the files (docker login, containers-auth.json(5)); a helper is a program
// docker-credential-NAME that takes a key on its standard input and answers in JSON.
package credential
