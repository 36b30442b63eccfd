"""What every room uses: errors, paths, files, schemas, progress, parallel work."""
