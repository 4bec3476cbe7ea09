"""What the tests of the whole share: certificates, issuers, servers and clients, each started for one test and gone after it."""
