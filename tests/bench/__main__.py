"""All benchmarks, one after the other: `make bench`."""

from tests.bench import idle, mail, pairing, rendezvous, replicate, small_files, transfer, trees

if __name__ == "__main__":
    pairing.main()
    small_files.main()
    transfer.main()
    trees.main()
    replicate.main()
    mail.main()
    idle.main()
    rendezvous.main()
