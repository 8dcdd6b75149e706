package registry

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// tlsSettings are what one host's TLS needs beside the system's certificates.
type tlsSettings struct {
	cas        []string    // files in PEM, added to the system's
	pairs      [][2]string // files in PEM: certificate and key of this client
	skipVerify bool
	where      string // the folder that people are told to put certificates into
}

// config reads the files.
func (t tlsSettings) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.skipVerify} // the user's settings say so
	if len(t.cas) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("read the system's certificates: %w", err)
		}
		for _, file := range t.cas {
			data, err := readFile(file)
			if err != nil {
				return nil, fmt.Errorf("read a registry's CA certificate: %w", err)
			}
			if !pool.AppendCertsFromPEM(data) {
				return nil, settingError(file, "", "", "holds no certificate in PEM", "put the CA's certificate there")
			}
		}
		c.RootCAs = pool
	}
	for _, pair := range t.pairs {
		cert, err := readFile(pair[0])
		if err != nil {
			return nil, fmt.Errorf("read a client certificate: %w", err)
		}
		key, err := readFile(pair[1])
		if err != nil {
			return nil, fmt.Errorf("read a client's key: %w", err)
		}
		loaded, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, settingError(pair[0], "", "", fmt.Sprintf("does not go with its key %s (%v)", pair[1], err),
				"put a certificate and its key in PEM there")
		}
		c.Certificates = append(c.Certificates, loaded)
	}
	return c, nil
}
